"""``sam-diffsr app``: a browser page that upscales images."""

from __future__ import annotations

import argparse

from sam_diffsr.cli.options import (
    Subparsers,
    add_command,
    add_common_options,
    add_device_options,
    add_model_option,
    given,
    whole,
)

__all__ = ["register"]


def register(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = add_command(
        subparsers,
        "app",
        help="open a browser page that upscales images",
        description="Serve a page with drag and drop, a before/after slider, several images at once and "
        "downloads. It needs the extra `app` and no internet. Stop it with Ctrl-C.",
    )
    add_model_option(parser)
    add = parser.add_argument
    host = "address to listen on; 0.0.0.0 lets other machines in (default: 127.0.0.1)"
    public = "also make the page public, through the servers of Gradio (default: off)"
    add("--host", help=host)
    add("--port", type=whole(1, 65535), help="port to listen on (default: 7860)")
    add("--open", dest="open_browser", action="store_const", const=True, help="open the page in a browser")
    add("--share", action="store_const", const=True, help=public)
    add("--max-pixels", type=whole(1), metavar="N", help="largest input image (default: 64 megapixels)")
    add_device_options(parser)
    add_common_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve the page until the user stops it."""
    from sam_diffsr.app.page import serve

    options = ("model", "host", "port", "open_browser", "share", "max_pixels", "device", "dtype")
    serve(**given(args, *options))
    return 0
