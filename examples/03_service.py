"""Upscale over HTTP: ``python examples/03_service.py`` listens on 127.0.0.1:8000 (extra ``service``).

curl --data-binary @photo.jpg http://127.0.0.1:8000/upscale -o large.png
"""

from __future__ import annotations

import io
import threading
import time
from functools import cache

from fastapi import FastAPI, HTTPException, Request, Response
from starlette.concurrency import run_in_threadpool

from sam_diffsr import SuperResolver, save_image
from sam_diffsr.errors import ArgumentError, CancelledError, ImageError, ImageTooLargeError, OutputError

MAX_BYTES, MAX_PIXELS, MAX_SECONDS = 10 * 2**20, 1_000_000, 60
app = FastAPI(title="sam_diffsr")
turn = threading.Lock()  # one image at a time: the networks use all cores, or the GPU, for each


@cache
def resolver() -> SuperResolver:
    """The one model of this process, loaded after the server has forked."""
    return SuperResolver.from_pretrained()


def enlarge(data: bytes, fidelity: float | None) -> bytes:
    """Image file to PNG; stops after MAX_SECONDS."""
    deadline, large = time.monotonic() + MAX_SECONDS, io.BytesIO()
    with turn:
        image = resolver().upscale(
            io.BytesIO(data),
            fidelity=fidelity,
            max_pixels=MAX_PIXELS,
            progress=False,
            callback=lambda done, total, preview: time.monotonic() < deadline,
        )
    save_image(image, large)
    return large.getvalue()


@app.post("/upscale")
async def upscale(request: Request, fidelity: float | None = None) -> Response:
    """The image in the body, four times as large."""
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > MAX_BYTES:
            raise HTTPException(413, f"the file has more than {MAX_BYTES} bytes")
    try:
        return Response(await run_in_threadpool(enlarge, bytes(data), fidelity), media_type="image/png")
    except ImageTooLargeError as error:
        raise HTTPException(413, f"the image has more than {MAX_PIXELS} pixels") from error
    except (ImageError, OutputError) as error:  # the result of some kinds of images is no PNG
        raise HTTPException(415, str(error)) from error
    except ArgumentError as error:
        raise HTTPException(422, str(error)) from error
    except CancelledError as error:
        raise HTTPException(503, f"not finished within {MAX_SECONDS} seconds") from error


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(app, host="127.0.0.1", port=8000)
