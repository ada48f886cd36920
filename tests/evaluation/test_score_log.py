"""Scores of a stopped run are kept and reused; those of another run, and torn lines, are not."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from sam_diffsr.errors import ArgumentError, DataError, OutputError
from sam_diffsr.evaluation.evaluate import evaluate_methods
from sam_diffsr.evaluation.methods import Method, bicubic_method, results_method
from sam_diffsr.evaluation.pairs import Pair
from sam_diffsr.evaluation.result import Evaluation
from sam_diffsr.evaluation.score_log import ScoreLog


@pytest.fixture
def enlarged() -> list[str]:
    """Names of the images that were enlarged, in order."""
    return []


@pytest.fixture
def run(photos, tmp_path, enlarged):
    """Score two images; stop before the image called ``stop``."""

    def evaluate(*, resume: bool = True, stop: str = "", **options) -> Evaluation:
        def enlarge(pair: Pair, seed: int) -> torch.Tensor:
            if pair.name == stop:
                raise KeyboardInterrupt
            enlarged.append(pair.name)
            return bicubic_method(4).enlarge(pair, seed)

        log = ScoreLog(tmp_path / "scores.jsonl", resume=resume)
        methods = [Method(kind="model", name="m", enlarge=enlarge, identity=options.pop("identity", ""))]
        methods += [results_method(photos, photos, name="truth")] if options.pop("truth", False) else []
        return evaluate_methods(photos, methods, scale=4, log=log, **options)

    return evaluate


def test_a_stopped_run_goes_on(run, enlarged, tmp_path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(stop="1.png")
    lines = (tmp_path / "scores.jsonl").read_text().splitlines()
    assert [json.loads(line).get("image") for line in lines] == [None, "0.png"]
    result = run(truth=False)
    assert enlarged == ["0.png", "1.png"]
    again = run()
    assert enlarged == ["0.png", "1.png"]
    assert again.rows == result.rows
    assert (again.cropped, again.lr) == (("0.png", "1.png"), result.lr)
    assert run(resume=False).rows[0].psnr_y == result.rows[0].psnr_y
    assert enlarged == ["0.png", "1.png"] * 2


def test_infinite_scores_and_torn_lines(run, enlarged, tmp_path) -> None:
    first = run(truth=True)
    assert first.rows[1].psnr_y == float("inf")
    file = tmp_path / "scores.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole[:-20])  # stopped while a line was written
    assert run(truth=True).rows[1] == first.rows[1]
    assert enlarged == ["0.png", "1.png", "1.png"]
    assert len(file.read_bytes().splitlines()) == len(whole.splitlines())


def test_a_changed_image_is_scored_again(run, enlarged, photos) -> None:
    before = run()
    Image.open(photos[1]).rotate(180).save(photos[1])
    os.utime(photos[1], ns=(1, 1))
    assert run().rows[0].images[0] == before.rows[0].images[0]
    assert enlarged == ["0.png", "1.png", "1.png"]


def test_scores_of_another_run_are_refused(run, tmp_path, photos) -> None:
    run()
    for options, message in (
        ({"protocol": "paper"}, "protocol was 'matlab', now 'paper'"),
        ({"seed": 1}, "seed was 0, now 1"),
        ({"identity": "other weights"}, "holds scores of another run .methods was"),
        ({"measures": ["grain"]}, "measures was"),
    ):
        with pytest.raises(DataError, match=message):
            run(**options)
    with pytest.raises(ArgumentError, match="leave out FID, or do not resume"):
        run(features=lambda image: image)
    (tmp_path / "scores.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(DataError, match="is not a file of scores"):
        run()
    with pytest.raises(OutputError, match="cannot write scores to"):
        ScoreLog(tmp_path, resume=False).open({})
    with pytest.raises(OutputError, match="cannot write scores to"):
        ScoreLog(Path(tmp_path / "gone" / "x"), resume=False).add("a", "", files=photos, scores=[])


@pytest.mark.parametrize(
    "text", ["a shopping list", "{}\nan unfinished thought", '{"settings": {}}\n{"a": 1}\nend']
)
def test_a_file_of_something_else_is_left_as_it_is(tmp_path, text) -> None:
    (tmp_path / "notes").write_text(text)
    with pytest.raises(DataError, match="notes is not a file of scores"):
        ScoreLog(tmp_path / "notes", resume=True).open({})
    assert (tmp_path / "notes").read_text() == text


def test_a_torn_first_line_is_written_again(tmp_path) -> None:
    (tmp_path / "scores").write_text('{"settings": {"se')
    ScoreLog(tmp_path / "scores", resume=True).open({"seed": 0})
    assert (tmp_path / "scores").read_text() == '{"settings": {"seed": 0}}\n'


def test_pictures_are_made_again(run, enlarged) -> None:
    shown: list[str] = []
    first = run()
    assert run(on_image=lambda result: shown.append(result.pair.name)).rows[0].psnr_y == first.rows[0].psnr_y
    assert shown == ["0.png", "1.png"]
    assert enlarged == shown * 2
