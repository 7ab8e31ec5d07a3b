"""
The look of a report: one column, two schemes of colours, narrow screens, paper. No font and no picture from elsewhere.

Colours are those of `plots`, whose pictures have an opaque ground; text has a contrast of 4.5 or more on it.
"""

CSS = """
:root {
  color-scheme: light dark;
  --ground: #ffffff; --text: #1f2328; --muted: #59636e; --line: #d1d9e0; --soft: #f6f8fa;
  --accent: #0072b2; --mark: #e3f0f9; --warn: #fff4d6; --warn-line: #9a6700; --bad: #ffebe9; --bad-line: #cf222e;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --ground: #0d1117; --text: #e6edf3; --muted: #9198a1; --line: #30363d; --soft: #161b22;
    --accent: #56b4e9; --mark: #122a3d; --warn: #2b2410; --warn-line: #d29922; --bad: #331517; --bad-line: #f85149;
  }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
body {
  margin: 0; background: var(--ground); color: var(--text);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  overflow-wrap: anywhere;
}
.page { max-width: 66rem; margin: 0 auto; padding: 1.5rem 1.25rem 4rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.35rem; line-height: 1.3; margin: 3rem 0 .75rem; padding-bottom: .35rem;
     border-bottom: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.75rem 0 .5rem; }
p, ul { margin: .75rem 0; max-width: 46rem; }
code { font: .9em/1.4 ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace;
       unicode-bidi: isolate; background: var(--soft); border-radius: 4px; padding: .1em .3em; }
a { color: var(--accent); }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
.kicker { margin: 0; color: var(--muted); font-size: .85rem; letter-spacing: .06em; text-transform: uppercase; }
.studied { color: var(--muted); max-width: none; }
.small { font-size: .875rem; color: var(--muted); }
.answer { border-left: 4px solid var(--accent); background: var(--soft); padding: .9rem 1.1rem; margin: 1.25rem 0;
          border-radius: 0 6px 6px 0; max-width: none; font-size: 1.08rem; }
.lead { font-weight: 650; }
.notice { border: 1px solid var(--warn-line); background: var(--warn); border-radius: 6px; padding: .6rem 1rem;
          margin: 1rem 0; }
.notice.bad { border-color: var(--bad-line); background: var(--bad); }
.notice p, .notice ul { margin: .35rem 0; max-width: none; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: .75rem; margin: 1.25rem 0; }
.tiles div { border: 1px solid var(--line); border-radius: 8px; padding: .7rem .9rem; }
.tiles dt { color: var(--muted); font-size: .82rem; line-height: 1.35; }
.tiles dd { margin: .15rem 0 0; font-size: 1.45rem; font-weight: 600; line-height: 1.25;
            font-variant-numeric: tabular-nums; }
.tiles small { display: block; font-size: .8rem; font-weight: 400; color: var(--muted); margin-top: .15rem; }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: .4rem 1.1rem; padding: .6rem 0; margin: 1.25rem 0 0;
         border-block: 1px solid var(--line); max-width: none; font-size: .92rem; }
nav a { text-decoration: none; }
nav a:hover { text-decoration: underline; }
figure { margin: 1rem 0; overflow-x: auto; }
figure img { display: block; width: 100%; max-width: 50rem; height: auto; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
caption { text-align: left; color: var(--muted); font-size: .85rem; padding: 0 0 .4rem; }
caption span { display: block; max-width: min(46rem, calc(100vw - 2.6rem)); overflow-wrap: anywhere; }
th, td { padding: .36rem .7rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line);
         unicode-bidi: isolate; }
thead th { vertical-align: bottom; font-weight: 600; border-bottom: 2px solid var(--line); line-height: 1.3; }
tbody th { font-weight: 400; }
td code, th code { background: none; padding: 0; overflow-wrap: break-word; }
tbody th code, td code { display: inline-block; max-width: 24rem; }
.n { text-align: right; white-space: nowrap; }
thead .n { white-space: normal; }
tr.marked > * { background: var(--mark); }
tr.marked > :first-child { box-shadow: inset 3px 0 0 var(--accent); }
details { margin: 1rem 0; }
summary { cursor: pointer; color: var(--accent); }
.records .scroll { max-height: 70vh; overflow: auto; border: 1px solid var(--line); border-radius: 6px; }
.records caption { padding: .5rem .7rem; }
.records table { width: 100%; font-size: .84rem; }
.records thead th { position: sticky; top: 0; background: var(--soft); z-index: 1; }
.records td { padding-block: .22rem; }
.records td:nth-child(2) { min-width: 11rem; }
.records td:nth-child(3) { min-width: 9rem; }
th button { font: inherit; color: inherit; background: none; border: 0; padding: 0; text-align: inherit;
            cursor: pointer; }
th button:hover, th button:focus-visible { text-decoration: underline; }
th button::after { content: "\\a0\\2195"; color: var(--line); }
th[aria-sort="ascending"] button::after { content: "\\a0\\2191"; color: var(--accent); }
th[aria-sort="descending"] button::after { content: "\\a0\\2193"; color: var(--accent); }
.controls { display: flex; flex-wrap: wrap; gap: .6rem 1.1rem; align-items: baseline; margin: 1rem 0 .5rem;
            font-size: .9rem; }
.controls[hidden] { display: none; }
input, select { font: inherit; color: inherit; background: var(--ground); border: 1px solid var(--muted);
                border-radius: 6px; padding: .25rem .5rem; max-width: 15rem; }
#more-rows { font: inherit; color: var(--accent); background: none; border: 1px solid var(--line); border-radius: 6px;
             padding: .3rem .8rem; margin: .6rem 0; cursor: pointer; }
#more-rows[hidden] { display: none; }
output { color: var(--muted); }
footer { margin-top: 3rem; padding-top: .75rem; border-top: 1px solid var(--line); color: var(--muted);
         font-size: .85rem; }
.print-only { display: none; }
@media (max-width: 40rem) {
  .page { padding: 1rem .9rem 3rem; }
  h1 { font-size: 1.55rem; }
  h2 { margin-top: 2.25rem; }
  .tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: .5rem; }
  .tiles dd { font-size: 1.2rem; }
  figure img { width: 38rem; max-width: none; }
  th, td { padding: .32rem .5rem; }
  td code, tbody th code { max-width: 14rem; }
}
@media print {
  body { font-size: 10.5pt; }
  .page { max-width: none; padding: 0; }
  nav, .controls, #more-rows, th button::after { display: none; }
  h2, h3, caption { break-after: avoid; }
  figure, tr, .tiles div, .answer { break-inside: avoid; }
  figure, .scroll, .records .scroll { overflow: visible; max-height: none; }
  table { font-size: 8pt; }
  thead th, .records thead th { position: static; }
  th, td { padding: .2rem .35rem; }
  .n { white-space: normal; }
  .records td:nth-child(n) { min-width: 0; }
  .records.long { display: none; }
  .print-only { display: block; }
}
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
"""
