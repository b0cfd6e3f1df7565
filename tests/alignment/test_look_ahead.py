"""A candidate that may begin a longer target token: what the rows after it and the training text say of how it goes on."""

from collections import Counter, defaultdict

import numpy as np
import pytest
from markov_for_tests import TOY_SOURCES, TOY_TARGETS, dense, exact, texts
from tokenizers_for_tests import LOSSLESS, random_trace, surface

from knowfuse.alignment.byte_exact import byte_exact
from knowfuse.alignment.look_ahead import ASKED
from knowfuse.alignment.pair import TokenizerPair
from knowfuse.surface import Surface
from knowfuse.text.document import Document
from knowfuse.types import SourceTrace, TokenizedDocument

CODE = 'def wrap(text, width=70):\n    """Wrap a paragraph \u2014 \U0001f642 \u00e9."""\n    return w.wrap(text)\n'
TEXTS = [CODE, "x", " leading", "\n\n  def", "the text of the others", "\u65e5\u672c"]
READ = [Document(text, "any", "fusion") for text in TEXTS]
NO_ROW = np.zeros(())
PAIRS = [(s, t) for s in LOSSLESS for t in LOSSLESS if s != t]


# --- against all texts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source_name", TOY_SOURCES)
@pytest.mark.parametrize("target_name", TOY_TARGETS)
def test_the_mean_row_over_all_texts_is_what_the_source_means(source_name: str, target_name: str) -> None:
    """Of a source that knows the probability of every text: its very distribution over the next target token.

    Up to how often a token ends where a source token does, which is counted over all texts before it, not after this one. Rows
    that count as if the text were cut after a candidate are three times further from it, or more.
    """
    source, target = exact("source", source_name, 0), exact("target", target_name, 0)
    pair = TokenizerPair(source.surface, target.surface, [Document(text, "toy", "fusion") for text in texts(0)])
    beyond = {}
    for look_ahead in (False, True):
        align, rows = byte_exact(pair, look_ahead=look_ahead), defaultdict[tuple[int, ...], np.ndarray](lambda: NO_ROW)
        for text, probability in texts(0).items():
            tokens = target.surface.tokenize(text)
            said = dense(align(source.trace(text), tokens, text.encode()), target.surface.vocabulary_size)
            for t in range(len(tokens.ends) - 1):
                rows[target.cut[text][: t + 1]] = rows[target.cut[text][: t + 1]] + probability * said[t]
        over = [np.maximum(said - target.weights[read] * target.next(read), 0.0).sum() for read, said in rows.items()]
        beyond[look_ahead] = sum(over) / sum(target.weights[read] for read in rows)
    if target_name == "characters":
        assert max(beyond.values()) < 1e-6
    else:
        assert beyond[True] < min(0.05, 0.34 * beyond[False])


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

    def rows_of(self, trace: SourceTrace, tokens: TokenizedDocument, t: int) -> tuple[int, int]:
        """The source row that serves row t, and the one after which the source token comes that its next token ends in."""
        e, next_end, rows = tokens.ends[t], tokens.ends[t + 1], range(len(trace.ends) - 1)
        return max(u for u in rows if trace.ends[u] <= e), max(
            u for u in rows if trace.ends[u] < next_end or trace.ends[u] <= e
        )

    def heard(self, trace: SourceTrace, tokens: TokenizedDocument, data: bytes, t: int) -> dict[int, float]:
        """The candidates of the serving row that go on as the target has read."""
        u, _ = self.rows_of(trace, tokens, t)
        gold, begin, end = int(trace.input_ids[u + 1]), int(trace.ends[u]), int(trace.ends[u + 1])
        lead = self.piece(gold).removesuffix(data[begin:end])
        consumed = lead + data[begin : tokens.ends[t]]
        if (
            t > 0 and self.rows_of(trace, tokens, t - 1)[1] == u
        ):  # the token that was read last ended in this source token
            heard, reads = self.outcomes(trace, tokens, data, t - 1)
            if t == 1 or tokens.ends[t] > tokens.ends[t - 1]:
                heard = {i: p for i, p in heard.items() if i == gold or reads[i] == tokens.input_ids[t]}
        else:
            heard = self.said(trace, u)
            if consumed == lead == b"":
                heard = self.staying(heard, int(tokens.input_ids[t]), gold)
        return {i: p for i, p in heard.items() if self.piece(i).startswith(consumed)}

    def staying(self, said: dict[int, float], read_id: int, gold: int) -> dict[int, float]:
        """The candidates after which the target still reads the token that it has read, and the gold one."""
        read = self.target.token_bytes[read_id] or b""
        if self.tokens.get(read) != read_id or not self.is_beginning(read):
            return said
        return {i: p for i, p in said.items() if i == gold or self.becomes(read, self.piece(i), p) in (None, read_id)}

    def outcomes(
        self, trace: SourceTrace, tokens: TokenizedDocument, data: bytes, t: int
    ) -> tuple[dict[int, float], dict[int, int | str | None]]:
        """Of each candidate of the row that the next token ends in: how probable it is and that the token ends in it, and which it is.

        None: it ends before; `unknown`: beyond; `unusable`: no token begins so.
        """
        serving, u = self.rows_of(trace, tokens, t)
        gold, begin, end = int(trace.input_ids[u + 1]), int(trace.ends[u]), int(trace.ends[u + 1])
        truth, next_end, is_last = int(tokens.input_ids[t + 1]), int(tokens.ends[t + 1]), t == len(tokens.ends) - 2
        lead = self.piece(gold).removesuffix(data[begin:end])
        if u > serving:
            read = (self.target.lead if t == 0 else b"") + data[tokens.ends[t] : begin]
            candidates = {i: p for i, p in self.said(trace, u).items() if self.piece(i).startswith(lead)}
        else:
            read, candidates = b"", self.heard(trace, tokens, data, t)
        consumed = lead + data[begin : tokens.ends[t]]
        probs, reads = dict[int, float](), dict[int, int | str | None]()
        for i, p in candidates.items():
            rest = self.piece(i)[len(consumed) :]
            if i == gold and not is_last and rest:
                share = 1.0
                if end == next_end and u + 2 < len(trace.ends):
                    said = self.said(trace, u + 1)
                    stays = said
                    if self.piece(int(trace.input_ids[u + 2])) == data[end : trace.ends[u + 2]]:
                        stays = self.staying(said, truth, int(trace.input_ids[u + 2]))
                    share = sum(stays.values()) / sum(said.values())
                probs[i], reads[i] = p * share, truth
            elif u > serving:
                to = self.becomes(read, rest, p) if read in self.beginnings else None
                made = (self.target.token_bytes[to] or b"") if isinstance(to, int) else b""
                goes_on = made == read + rest and self.is_beginning(made)
                reads[i] = None if isinstance(to, int) and len(made) <= len(read) else to
                probs[i] = p * (self.ends.get(i, self.ends[-1]) if goes_on else 1.0)
            elif i == self.source.eos_id and not consumed:
                probs[i], reads[i] = p, self.target.eos_id
            elif not rest:
                probs[i], reads[i] = p, None if consumed else "unusable"
            else:
                first = int(self.target.first_tokens([rest], at_start=t == 0)[0])
                is_whole = self.target.token_bytes[first] in (rest, b" " + rest)
                reads[i] = first
                probs[i] = p * (self.stays.get((i, len(rest)), self.stays[-1, -1]) if is_whole else 1.0)
        return probs, reads

    def row(
        self, trace: SourceTrace, tokens: TokenizedDocument, data: bytes, t: int
    ) -> tuple[dict[int, float], float, float]:
        """The probabilities of row t, what no token has, and the nats that it takes as known."""
        serving, u = self.rows_of(trace, tokens, t)
        heard, mass = self.heard(trace, tokens, data, t), sum(self.heard(trace, tokens, data, t).values())
        given = 0.0
        begins_whole = tokens.ends[t] == trace.ends[serving] and not (t > 0 and tokens.ends[t] == 0)
        gold = int(trace.input_ids[serving + 1])
        is_led = self.piece(gold) != data[trace.ends[serving] : trace.ends[serving + 1]] and gold != self.source.eos_id
        tail = 1.0 - sum(self.said(trace, serving).values()) if begins_whole and not is_led else 0.0
        if u > serving:
            given -= np.log(heard[gold] / mass * (1.0 - tail))
            given += float(trace.nll[serving + 1 : u].sum())
            tail = 1.0 - sum(self.said(trace, u).values())
            lead = self.piece(int(trace.input_ids[u + 1])).removesuffix(data[trace.ends[u] : trace.ends[u + 1]])
            mass = sum(p for i, p in self.said(trace, u).items() if self.piece(i).startswith(lead))
        probs, reads = self.outcomes(trace, tokens, data, t)
        ending = {i: p for i, p in probs.items() if reads[i] not in (None, "unknown")}
        total, row = sum(ending.values()), defaultdict[int, float](float)
        for i, p in ending.items():
            if isinstance(to := reads[i], int):
                row[to] += p / total * (1.0 - tail)
        return row, 1.0 - sum(row.values()), given - float(np.log(total / mass))


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_rows_are_those_of_the_slow_rules(source: str, target: str) -> None:
    pair = TokenizerPair(surface(source), surface(target), READ)
    align, slow = byte_exact(pair, look_ahead=True), Slow(surface(source), surface(target))
    for seed, text in enumerate(TEXTS):
        trace, tokens = random_trace(surface(source), text, 5, seed), surface(target).tokenize(text)
        aligned = align(trace, tokens, text.encode())
        said = dense(aligned, surface(target).vocabulary_size)
        assert aligned.budget is not None
        assert aligned.given is not None
        for t in np.flatnonzero(aligned.is_aligned).tolist():
            row, to_none, given = slow.row(trace, tokens, text.encode(), t)
            want = np.zeros(len(said[t]))
            want[list(row)] = list(row.values())
            np.testing.assert_allclose(said[t], want, rtol=1e-5, atol=1e-6, err_msg=f"row {t} of {text!r}")
            np.testing.assert_allclose(aligned.tail[t], to_none, rtol=0, atol=1e-6)
            np.testing.assert_allclose(aligned.given[t], given, rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(aligned.budget[t].sum(), 1.0, rtol=0, atol=1e-6)
        assert (aligned.budget >= 0).all()
