"""How do pages look: on paper, in the light and in the dark, on a laptop and on a phone?

Colours are custom properties, so that one SVG is right in both schemes. No font is fetched: each reader has his own.
"""

from knowfuse.types import MASS_CLASSES

MASS_COLOURS: dict[str, str] = dict(
    zip(MASS_CLASSES, ("#4c9f70", "#8ecae6", "#f2c14e", "#e07a5f", "#b07cd8", "#b9bec6"), strict=True)
)
MASS_MEANING: dict[str, str] = dict(
    zip(
        MASS_CLASSES,
        (
            "went to a target token that takes all of a source token's bytes",
            "went to the first target token of a source token's bytes",
            "of true target tokens that span several source tokens, along the true chain",
            "of source tokens that end where the row begins: what follows them is unknown",
            "that no target token begins with",
            "that the source did not keep",
        ),
        strict=True,
    )
)
MARKER_COLOUR = "#d98cb3"  # of what a chat template adds to the messages
SERIES = tuple(f"var(--series-{n})" for n in range(6))  # of what has no colour of its own: sources, in their order

STYLE = """
:root {
  color-scheme: light dark;
  --ink: #1b1f24; --soft: #59616b; --line: #dfe3e8; --paper: #fff; --panel: #f6f7f9;
  --fused: #1f6feb; --clm: #b35900; --before: #7a828c; --better: #1a7f37; --worse: #c4320a; --hot: #d9480f;
  --series-0: #8250df; --series-1: #bf3989; --series-2: #0b7a75; --series-3: #6f7d00; --series-4: #8a5a2b; --series-5: #4b5f7a;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --ink: #e6e9ed; --soft: #9aa4b0; --line: #30363d; --paper: #0f1318; --panel: #181d24;
    --fused: #6cb0ff; --clm: #f0a04b; --before: #98a2ad; --better: #4ec26b; --worse: #ff7b54; --hot: #ff7a3d;
    --series-0: #b392f0; --series-1: #f08bc0; --series-2: #4fc7c1; --series-3: #b9c94a; --series-4: #cf9d6b; --series-5: #94aac8;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body {
  margin: 0 auto; max-width: 72rem; padding: 1.5rem clamp(1rem, 4vw, 2.5rem) 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; overflow-wrap: break-word;
}
h1 { font-size: clamp(1.45rem, 4.5vw, 2.1rem); line-height: 1.2; margin: .4rem 0 .6rem; overflow-wrap: anywhere; }
h2 { font-size: 1.35rem; margin: 0 0 .6rem; } h3 { font-size: 1.02rem; margin: 1.6rem 0 .4rem; }
p { margin: .5rem 0; max-width: 62rem; } a { color: var(--fused); } .soft { color: var(--soft); }
section { border-top: 1px solid var(--line); margin-top: 2.4rem; padding-top: 1.6rem; }
nav { display: flex; flex-wrap: wrap; gap: .3rem .5rem; margin: 1.2rem 0 0; }
nav a { border: 1px solid var(--line); border-radius: 999px; color: inherit; font-size: .88rem; padding: .12rem .7rem; text-decoration: none; }
nav a:hover { border-color: var(--fused); color: var(--fused); } nav a.out { border-style: dashed; color: var(--soft); }
.out { color: var(--soft); } p.out { border-left: 3px solid var(--line); padding-left: .8rem; }
.tiles { display: grid; gap: .8rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 10rem), 1fr)); margin: 1.2rem 0; }
.tile { background: var(--panel); border-radius: .6rem; padding: .8rem 1rem; }
.tile b { display: block; font-size: 1.7rem; font-weight: 650; font-variant-numeric: tabular-nums; line-height: 1.25; }
.tile span { color: var(--soft); display: block; font-size: .9rem; line-height: 1.4; }
.better { color: var(--better); } .worse { color: var(--worse); }
.grid { display: grid; gap: 1.2rem 1.6rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); margin: 1rem 0; }
figure { margin: 0; min-width: 0; } figcaption { font-weight: 600; font-size: .95rem; margin-bottom: .2rem; }
svg { display: block; height: auto; max-width: 26rem; width: 100%; font: 12px system-ui, sans-serif; fill: var(--ink); overflow: visible; }
svg .axis { stroke: var(--line); } svg .tick { fill: var(--soft); font-size: 11px; } svg path, svg line { fill: none; }
.wide { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-size: .93rem; font-variant-numeric: tabular-nums; }
td, th { padding: .28rem .8rem .28rem 0; text-align: right; vertical-align: baseline; white-space: nowrap; }
th { color: var(--soft); font-weight: 600; } td:first-child, th:first-child, .text { text-align: left; }
tr + tr > * { border-top: 1px solid var(--line); } td.best { font-weight: 700; } tr.point > td { background: var(--panel); }
td small { color: var(--soft); font-size: .82em; } td.wrap { overflow-wrap: anywhere; white-space: pre-wrap; }
.keys { display: flex; flex-wrap: wrap; font-size: .88rem; gap: .1rem 1rem; list-style: none; margin: .4rem 0; padding: 0; }
.key { border-radius: .2em; display: inline-block; height: .85em; margin-right: .35em; vertical-align: -.08em; width: .85em; }
.bars { display: grid; gap: .35rem .8rem; grid-template-columns: minmax(4.5rem, max-content) 1fr; margin: .6rem 0; max-width: 46rem; }
.bars > span { font-size: .92rem; overflow-wrap: anywhere; }
.bar { background: var(--panel); border-radius: .25rem; display: flex; height: 1.5rem; overflow: hidden; }
.bar i { flex: none; font: 600 .75rem/1.5rem system-ui, sans-serif; overflow: hidden; text-align: center; white-space: nowrap; }
.bar, .key, .token, .t { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.line { font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace; line-height: 2.6; overflow-wrap: anywhere; }
.token { border: 1px solid var(--soft); border-radius: 3px; color: #15181c; background: #f2f3f5; margin: 0 1px; padding: .1rem .15rem; white-space: pre-wrap; }
.token sub { color: #444; font-size: .65em; } .token.none { border-style: dashed; }
pre { background: var(--panel); border-radius: .5rem; font: .85rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; margin: .6rem 0;
  overflow-x: auto; padding: .8rem 1rem; white-space: pre-wrap; overflow-wrap: anywhere; }
details { margin: .6rem 0; } summary { cursor: pointer; font-weight: 600; }
@media (max-width: 40rem) { body { font-size: 15px; } table { font-size: .86rem; } td, th { padding-right: .6rem; } }
@media print {
  body { font-size: 10.5pt; max-width: none; padding: 0; } nav, .screen { display: none; }
  section { margin-top: 1.2rem; padding-top: .8rem; } figure, tr, .tile, .bars, .keep { break-inside: avoid; } h2, h3 { break-after: avoid; }
  pre, .wide { overflow: visible; } details > :not(summary) { display: block; }
}
"""
