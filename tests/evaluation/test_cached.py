"""Scores are made once: kept by content, shared by the processes of a job, found by the next."""

import json
import multiprocessing
from dataclasses import asdict
from pathlib import Path

import pytest
from experiments_for_tests import documents, forward_passes, local_llm, started_by_torchrun

from knowfuse.evaluation import DocumentScores, cached_scores
from knowfuse.llms.local import LocalLLM
from knowfuse.text.corpus import Document

PROBES = 2  # forward passes in which an LLM that is loaded is asked what it is
TEXTS = documents(24)
LONG = Document("word after word " * 200, "code", "fusion")


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> LocalLLM:
    return local_llm(tmp_path_factory.mktemp("llms") / "mpt", "mpt")


def test_scores_are_kept(llm: LocalLLM, tmp_path: Path) -> None:
    """By content: the same documents are not read again; others are."""
    with forward_passes() as passes:
        first = cached_scores(llm, llm.surface(), TEXTS, tmp_path)
        once = len(passes)
        assert once > 0
        assert cached_scores(llm, llm.surface(), list(reversed(TEXTS)), tmp_path) == first
        assert len(passes) == once
        cached_scores(llm, llm.surface(), TEXTS[1:], tmp_path)
        assert len(passes) > once


def test_scores_cut_off_are_named(llm: LocalLLM, tmp_path: Path) -> None:
    cached_scores(llm, llm.surface(), TEXTS[:2], tmp_path)
    (path,) = (tmp_path / "scores").glob("*.json")
    for content in (path.read_bytes()[:20], b"", b"{}"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"mpt-\w+\.json' is cut off or damaged .*: remove it and run the same"):
            cached_scores(llm, llm.surface(), TEXTS[:2], tmp_path)


def work_of(rank: int, world: int, llm: LocalLLM, cache: Path) -> tuple[int, DocumentScores]:
    """Forward passes of this rank, and the scores that it got."""
    with started_by_torchrun(rank, world), forward_passes() as passes:
        scores = cached_scores(llm, llm.surface(), [*TEXTS, LONG], cache)
    return len(passes), scores


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_the_documents(llm: LocalLLM, tmp_path: Path, world: int) -> None:
    """At once, each some of the batches, all of them all the scores: those of one process, to the last bit, since a document
    has the same companions. What they left is one file, and the next run reads nothing."""
    fork = multiprocessing.get_context("fork")
    answers = fork.Queue()
    processes = [
        fork.Process(target=lambda rank: answers.put(work_of(rank, world, llm, tmp_path)), args=(rank,))
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    found = [answers.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    with forward_passes() as passes:
        alone = cached_scores(llm, llm.surface(), [*TEXTS, LONG], tmp_path / "alone")
    assert all(scores == alone for _, scores in found)
    assert list(alone.set_aside) == [LONG.id]
    read = [n - PROBES for n, _ in found]
    assert sum(read) == len(passes) - PROBES
    assert max(read) - min(read) <= 1
    assert min(read) > 0
    assert [path.suffix for path in (tmp_path / "scores").iterdir() if path.suffix != ".lock"] == [".json"]
    assert work_of(0, 1, llm, tmp_path) == (0, alone)


def test_what_a_killed_rank_left_is_used_by_the_same_ranks(llm: LocalLLM, tmp_path: Path) -> None:
    """Rank 1 of 2 is stopped once its share is written; in the next start it reads nothing, and rank 0 only its own."""

    class Stopped(Exception):
        pass

    def stop(found: object) -> None:
        raise Stopped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("knowfuse.evaluation.cached.wait_for", stop)
        with pytest.raises(Stopped):
            work_of(1, 2, llm, tmp_path)
    (share,) = (tmp_path / "scores").glob("*.json")
    assert share.name.endswith(".0001-of-0002.json")
    _, scores = work_of(0, 2, llm, tmp_path)
    assert scores == cached_scores(llm, llm.surface(), [*TEXTS, LONG], tmp_path / "alone")
    assert work_of(1, 2, llm, tmp_path) == (0, scores)


@pytest.mark.parametrize("world", [1, 2])
def test_what_other_ranks_left_goes_once_all_is_there(llm: LocalLLM, tmp_path: Path, world: int) -> None:
    """Shares of a job of three that was killed, and one half-written; those of other scores stay."""
    cached_scores(llm, llm.surface(), TEXTS[:2], tmp_path / "alone")
    (whole,) = (tmp_path / "alone" / "scores").glob("*.json")
    (tmp_path / "scores").mkdir()
    left = [f"{whole.stem}.0001-of-0003.json", f"{whole.stem}.0002-of-0003.json.12ab.part"]
    if world == 2:  # the other rank's share is there already
        (tmp_path / "scores" / f"{whole.stem}.0001-of-0002.json").write_text(json.dumps(asdict(DocumentScores({}, {}))))
    for name in [*left, "other-1234.0001-of-0003.json"]:
        (tmp_path / "scores" / name).touch()
    with started_by_torchrun(0, world):
        cached_scores(llm, llm.surface(), TEXTS[:2], tmp_path)
    kept = {path.name for path in (tmp_path / "scores").iterdir() if path.suffix != ".lock"}
    assert kept == {whole.name, "other-1234.0001-of-0003.json"}
