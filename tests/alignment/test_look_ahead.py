"""A candidate that may begin a longer target token: what the rows after it and the training text say of how it goes on."""

from collections import Counter, defaultdict

import numpy as np
import pytest
from markov_for_tests import TOY_SOURCES, TOY_TARGETS, dense, exact, texts
from tokenizers_for_tests import LOSSLESS, random_trace, surface

from knowfuse.alignment.byte_exact import byte_exact
from knowfuse.alignment.look_ahead import ASKED, LEAST
from knowfuse.alignment.pair import TokenizerPair
from knowfuse.surface import Surface
from knowfuse.text.document import Document
from knowfuse.types import SourceTrace, TokenizedDocument

CODE = 'def wrap(text, width=70):\n    """Wrap a paragraph \u2014 \U0001f642 \u00e9."""\n    return w.wrap(text)\n'
TEXTS = [CODE, "x", " leading", "\n\n  def", "the text of the others", "\u65e5\u672c"]
READ = [Document(text, "any", "fusion") for text in TEXTS]
PAIRS = [(s, t) for s in LOSSLESS for t in LOSSLESS if s != t]


# --- against all texts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source_name", TOY_SOURCES)
@pytest.mark.parametrize("target_name", TOY_TARGETS)
def test_less_is_said_that_the_source_does_not_mean(source_name: str, target_name: str) -> None:
    """The mass beyond the very distribution over the next target token, of a source that knows the probability of every text.

    Where a target token may be longer than a source token, that mass becomes smaller; else it is what it was. So does that of the
    mean row over all texts that the target reads alike: what is wrong is not made up for by other texts.
    """
    source, target = exact("source", source_name, 0), exact("target", target_name, 0)
    probabilities = np.array(list(texts(0).values()))
    drawn = np.random.default_rng(0).choice(len(probabilities), 100, p=probabilities / probabilities.sum())
    sample = [list(texts(0))[i] for i in drawn]
    pair = TokenizerPair(source.surface, target.surface, [Document(text, "toy", "fusion") for text in set(sample)])
    beyond, biased = {}, {}
    for look_ahead in (False, True):
        align, rows = byte_exact(pair, look_ahead=look_ahead), []
        for text in sample:
            tokens = target.surface.tokenize(text)
            aligned = align(source.trace(text), tokens, text.encode())
            said = dense(aligned, target.surface.vocabulary_size)
            rows += [(target.cut[text][: t + 1], said[t]) for t in range(len(tokens.ends) - 1)]
        beyond[look_ahead] = np.mean([np.maximum(said - target.next(read), 0.0).sum() for read, said in rows])
        alike: dict[tuple[int, ...], list[np.ndarray]] = {}
        for read, said in rows:
            alike.setdefault(read, []).append(said)
        over = {read: np.maximum(np.mean(said, axis=0) - target.next(read), 0.0) for read, said in alike.items()}
        biased[look_ahead] = sum(over[read].sum() * len(said) for read, said in alike.items()) / len(rows)
    if target_name == "characters":
        assert beyond[True] == beyond[False]
    else:
        assert beyond[True] <= 0.85 * beyond[False]
        assert biased[True] <= 0.85 * biased[False]
    if (source_name, target_name) == ("characters", "others"):  # `c`, `a`: is it `ca`, or does `cab` go on?
        assert beyond[True] <= 0.2 * beyond[False]


# --- the rules, read slowly -------------------------------------------------------------------------------------------


class Slow:
    """The rows of `byte_exact(look_ahead=True)` in dictionaries and strings, of a text that both tokenizers spell as it is."""

    def __init__(self, source: Surface, target: Surface) -> None:
        self.source, self.target = source, target
        spelled = [piece or b"" for piece in target.token_bytes[: target.usable]]
        alone = target.first_tokens(spelled, at_start=False)
        self.tokens = {piece: i for i, piece in enumerate(spelled) if piece and alone[i] == i}
        self.beginnings = {piece[:n] for piece in self.tokens for n in range(len(piece) + 1)}
        self.stays, self.ends = self._stays(), self._ends()

    def _stays(self) -> dict[tuple[int, int], float]:
        """By source token and how many of its bytes are left."""
        ends_there, goes_on = Counter[tuple[int, int]](), Counter[tuple[int, int]]()
        for text in TEXTS:
            ours, its = self.target.tokenize(text), self.source.tokenize(text)
            for begin, end in zip(ours.ends[:-1].tolist(), ours.ends[1:].tolist(), strict=True):
                u = max(u for u in range(len(its.ends) - 1) if its.ends[u] <= begin)
                gold_end = int(its.ends[u + 1])
                place = int(its.input_ids[u + 1]), gold_end - begin
                if begin < gold_end <= end:
                    (ends_there if end == gold_end else goes_on)[place] += 1
        overall = ends_there.total() / (ends_there.total() + goes_on.total())
        places = ends_there.keys() | goes_on.keys()
        stays = {place: (ends_there[place] + overall) / (ends_there[place] + goes_on[place] + 1) for place in places}
        return {(-1, -1): overall, **stays}

    def _ends(self) -> dict[int, float]:
        """By source token, in which a target token that began before may end."""
        ends_there, goes_on = Counter[int](), Counter[int]()
        for text in TEXTS:
            ours, its = self.target.tokenize(text), self.source.tokenize(text)
            for u in range(1, len(its.ends)):
                begin, end, token = int(its.ends[u - 1]), int(its.ends[u]), int(its.input_ids[u])
                for first, last in zip(ours.ends[:-1].tolist(), ours.ends[1:].tolist(), strict=True):
                    if first < begin < end <= last:
                        (ends_there if last == end else goes_on)[token] += 1
        overall = ends_there.total() / (ends_there.total() + goes_on.total())
        tokens = ends_there.keys() | goes_on.keys()
        ends = {i: (ends_there[i] + overall) / (ends_there[i] + goes_on[i] + 1) for i in tokens}
        return {-1: overall, **ends}

    def piece(self, i: int) -> bytes:
        return self.source.token_bytes[i] or b""

    def said(self, trace: SourceTrace, u: int) -> dict[int, float]:
        """What row u gives to each of its candidates; the gold one, where it is not kept, what its nats say."""
        row = {int(i): float(np.exp(p)) for i, p in zip(trace.topk.ids[u], trace.topk.log_probs[u], strict=True)}
        gold = int(trace.input_ids[u + 1])
        return row if gold in row else row | {gold: float(np.exp(-float(trace.nll[u])))}

    def becomes(self, read: bytes, piece: bytes, p: float) -> int | str | None:
        """What the target reads that has read some bytes, if a piece follows; None: the same; `unknown` if more bytes decide."""
        if piece and read + piece in self.beginnings - self.tokens.keys():
            return "unknown"
        longest = self.longest(read, piece)
        if longest is None or p < ASKED:
            return longest
        own = int(self.target.first_tokens([read + piece], at_start=False)[0])
        return longest if own < 0 else own

    def longest(self, read: bytes, piece: bytes) -> int | None:
        """The longest token that what was read and some bytes of a piece are."""
        met = None
        for n in range(1, len(piece) + 1):
            met = self.tokens.get(read + piece[:n], met)
        return met

    def is_beginning(self, read: bytes) -> bool:
        return any(len(piece) > len(read) and piece.startswith(read) for piece in self.tokens)

    def of_gold(
        self, trace: SourceTrace, tokens: TokenizedDocument, t: int, u: int, before: bytes, rest: bytes, mass: float
    ) -> tuple[dict[int, float], float, float]:
        """Where the mass of the gold candidate goes, of which `rest` remains: to which tokens, what to none, what to the truth."""
        truth, next_end = int(tokens.input_ids[t + 1]), int(tokens.ends[t + 1])
        went, to_none, to_truth = defaultdict[int, float](float), 0.0, 0.0
        stays, piece = self.longest(before, rest), before + rest
        while u < len(trace.ends) - 1:
            is_end = int(trace.ends[u]) == next_end
            if trace.ends[u] > next_end or (is_end and not self.is_beginning(piece)):
                break
            stays = truth if is_end else stays
            gold, said = int(trace.input_ids[u + 1]), self.said(trace, u)
            staying = said[gold] if is_end else 0.0
            for i, p in said.items():
                if i == gold:
                    continue
                to = self.becomes(piece, self.piece(i), p)
                to = stays if to is None else to
                made = self.target.token_bytes[to] if isinstance(to, int) else None
                if made == piece + self.piece(i) != piece and self.is_beginning(made):
                    ends = self.ends.get(i, self.ends[-1])
                    to_none, p = to_none + mass * p * (1 - ends), p * ends
                if is_end and to == truth:
                    staying += p
                if to == truth:
                    to_truth += mass * p
                elif isinstance(to, int) and mass * p >= LEAST:
                    went[to] += mass * p
                else:
                    to_none += mass * p
            known = sum(said.values())
            tail = max(1.0 - known, 0.0) * mass
            of_tail = tail * staying / known if is_end else 0.0
            to_none, mass = to_none + tail - of_tail, mass * said[gold] + of_tail
            if is_end:
                break
            follows = self.piece(gold)
            longest = self.longest(piece, follows)
            stays, piece, u = stays if longest is None else longest, piece + follows, u + 1
        return went, to_none, to_truth + mass

    def row(self, trace: SourceTrace, tokens: TokenizedDocument, data: bytes, t: int) -> tuple[dict[int, float], float]:
        """The probabilities of row t, and what no token has."""
        u = max(u for u in range(len(trace.ends) - 1) if trace.ends[u] <= tokens.ends[t])
        gold, span, begin = int(trace.input_ids[u + 1]), data[trace.ends[u] : trace.ends[u + 1]], int(trace.ends[u])
        lead = self.piece(gold).removesuffix(span)
        consumed = lead + data[begin : tokens.ends[t]]
        served = [j for j in range(t + 1) if tokens.ends[j] >= begin]
        candidates, staying = self.said(trace, u), 1.0
        if not lead and tokens.ends[served[0]] == begin:
            first = served[-1] if not consumed else min(j for j in served if tokens.ends[j] == begin)
            read = self.target.token_bytes[tokens.input_ids[first]] or b""
            read_id = int(tokens.input_ids[first])
            if read in self.tokens and read_id == self.tokens[read] and self.is_beginning(read):
                same = (None, read_id)
                kept = {
                    i: p for i, p in candidates.items() if i == gold or self.becomes(read, self.piece(i), p) in same
                }
                staying, candidates = sum(kept.values()) / sum(candidates.values()), kept
        candidates = {i: p for i, p in candidates.items() if self.piece(i).startswith(consumed)}
        is_conditioned = bool(consumed) or (t > 0 and tokens.ends[t] == 0)
        if is_conditioned:
            candidates = {
                i: p
                for i, p in candidates.items()
                if i == gold or self.is_cut_so(self.piece(i), lead, tokens, begin, t)
            }
        total = sum(candidates.values())
        tail = 0.0 if is_conditioned else max((staying if not consumed else 1.0) - total, 0.0)
        row, to_none, label, next_end = (
            defaultdict[int, float](float),
            tail,
            int(tokens.input_ids[t + 1]),
            int(tokens.ends[t + 1]),
        )
        is_last = t == len(tokens.ends) - 2
        for i, p in candidates.items():
            rest = self.piece(i)[len(consumed) :]
            if i == self.source.eos_id and not consumed:
                assert self.target.eos_id is not None
                row[self.target.eos_id] += p
            elif not rest:
                to_none += p
            elif i == gold and not is_last and trace.ends[u + 1] <= next_end:
                before = self.target.lead if t == 0 else b""
                went, unknown, to_truth = self.of_gold(trace, tokens, t, u + 1, before, rest, p)
                to_none += unknown
                for to, share in {**went, label: to_truth}.items():
                    row[to] += share
            elif i == gold and not is_last:
                row[label] += p
            else:
                first = int(self.target.first_tokens([rest], at_start=t == 0)[0])
                spelled = self.target.token_bytes[first] or b""
                share = self.stays.get((i, len(rest)), self.stays[-1, -1]) if spelled in (rest, b" " + rest) else 1.0
                row[first] += p * share
                to_none += p * (1 - share)
        scale = total + tail
        return {i: p / scale for i, p in row.items()}, to_none / scale

    def is_cut_so(self, piece: bytes, lead: bytes, tokens: TokenizedDocument, begin: int, t: int) -> bool:
        """Whether the target would have cut this token into those that it read since its first byte."""
        read = [j for j in range(t) if begin <= tokens.ends[j] and (j == 0 or tokens.ends[j] < tokens.ends[j + 1])]
        rests = [piece[len(lead) + int(tokens.ends[j]) - begin :] for j in read]
        firsts = [
            int(self.target.first_tokens([rest], at_start=j == 0)[0]) for j, rest in zip(read, rests, strict=True)
        ]
        return firsts == [int(tokens.input_ids[j + 1]) for j in read]


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_rows_are_those_of_the_slow_rules(source: str, target: str) -> None:
    pair = TokenizerPair(surface(source), surface(target), READ)
    align, slow = byte_exact(pair, look_ahead=True), Slow(surface(source), surface(target))
    for seed, text in enumerate(TEXTS):
        trace, tokens = random_trace(surface(source), text, 5, seed), surface(target).tokenize(text)
        aligned = align(trace, tokens, text.encode())
        said = dense(aligned, surface(target).vocabulary_size)
        assert aligned.budget is not None
        for t in np.flatnonzero(aligned.is_aligned).tolist():
            row, to_none = slow.row(trace, tokens, text.encode(), t)
            want = np.zeros(len(said[t]))
            want[list(row)] = list(row.values())
            np.testing.assert_allclose(said[t], want, rtol=1e-5, atol=1e-6, err_msg=f"row {t} of {text!r}")
            np.testing.assert_allclose(aligned.tail[t], to_none, rtol=0, atol=1e-6)
            np.testing.assert_allclose(aligned.budget[t].sum(), 1.0, rtol=0, atol=1e-6)
        assert (aligned.budget >= 0).all()
