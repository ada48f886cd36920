"""A browser page that upscales images; ``sam_diffsr.app.page`` needs the extra ``app``."""
