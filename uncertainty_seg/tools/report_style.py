# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The report's style sheet: dark on white, one column on a phone, and fit to be printed."""

CSS = """
:root { --ink: #1b1f24; --quiet: #59636e; --line: #d8dde3; --pale: #f5f7f9; --blue: #0072b2; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem clamp(0.9rem, 3vw, 2rem) 4rem; max-width: 72rem;
  background: #fff; color: var(--ink); line-height: 1.55; overflow-wrap: anywhere;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans",
  sans-serif; }
h1 { font-size: clamp(1.5rem, 4vw, 2.1rem); line-height: 1.2; margin: 0.5rem 0 0.75rem; }
h2 { font-size: 1.3rem; line-height: 1.3; margin: 2.75rem 0 0.5rem; padding-top: 0.9rem;
  border-top: 1px solid var(--line); }
p { margin: 0.5rem 0; max-width: 48rem; }
code { font: 0.88em/1.4 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; }
a { color: var(--blue); }
nav { display: flex; flex-wrap: wrap; gap: 0.25rem 1.1rem; margin: 1rem 0 0; font-size: 0.92rem; }
.lead { font-size: 1.14rem; line-height: 1.5; border-left: 4px solid var(--blue);
  padding: 0.2rem 0 0.2rem 0.9rem; margin: 0.9rem 0; max-width: 52rem; }
.warning { border: 2px solid #b3261e; background: #fdf2f1; padding: 0.6rem 0.9rem;
  border-radius: 4px; max-width: 52rem; }
.look { color: var(--quiet); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr));
  gap: 0.7rem; margin: 1rem 0; }
.tile { border: 1px solid var(--line); border-radius: 6px; padding: 0.6rem 0.8rem; }
.tile strong { display: block; font-size: 1.5rem; line-height: 1.25; font-weight: 650;
  font-variant-numeric: tabular-nums; }
.tile span { display: block; color: var(--quiet); font-size: 0.86rem; line-height: 1.35; }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr));
  gap: 0.6rem 1.2rem; margin: 0.8rem 0; }
.facts dt { color: var(--quiet); font-size: 0.86rem; }
.facts dd { margin: 0; font-weight: 550; }
.hashes { font-size: 0.9rem; margin: 0.6rem 0; }
.hashes div { margin: 0.3rem 0; }
.hashes dt { color: var(--quiet); font-size: 0.95em; }
.hashes dd { margin: 0; }
td small { color: var(--quiet); font-size: 0.92em; }
.wide { overflow-x: auto; margin: 0.8rem 0; }
table { border-collapse: collapse; font-size: 0.9rem; line-height: 1.35;
  font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 0.32rem 0.6rem; border-bottom: 1px solid var(--line);
  white-space: nowrap; overflow-wrap: normal; }
thead th { border-bottom: 2px solid var(--ink); font-weight: 600; vertical-align: bottom; }
th:first-child { text-align: left; font-weight: 450; padding-left: 0.3rem; }
td > code { white-space: nowrap; }
tr.marked > * { background: #eaf3fa; }
tr.marked > th:first-child { font-weight: 650; }
details { margin: 0.6rem 0; }
summary { cursor: pointer; color: var(--blue); }
.swatch { display: inline-block; width: 0.85em; height: 0.85em; margin-right: 0.5em;
  border: 1px solid #59636e; vertical-align: -0.08em; print-color-adjust: exact; }
.bar { display: inline-block; width: 7rem; height: 0.7em; background: #e9edf1;
  vertical-align: baseline; margin-right: 0.6em; print-color-adjust: exact; }
.value { display: inline-block; min-width: 2.6rem; }
.bar i { display: block; height: 100%; background: var(--blue); print-color-adjust: exact; }
figure { margin: 0.8rem 0; }
figure.plot img { display: block; width: 100%; height: auto; }
figure.plot.large img { min-width: 36rem; max-width: 56rem; }
figure.plot.middle img { max-width: 38rem; }
figure.plot.large { overflow-x: auto; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr));
  gap: 0.6rem 1.2rem; }
.plots figure { margin: 0; }
figcaption { font-size: 0.9rem; line-height: 1.45; }
figure.plot figcaption { color: var(--quiet); font-size: 0.85rem; text-align: right; }
.legend { display: flex; flex-wrap: wrap; gap: 0.2rem 1.1rem; font-size: 0.9rem;
  margin: 0.6rem 0; align-items: center; }
.legend img { height: 0.8em; width: 9rem; vertical-align: -0.05em; margin: 0 0.4em; }
figure.frame { border-top: 1px solid var(--line); padding-top: 0.6rem; margin: 1rem 0; }
.strip { display: grid; grid-template-columns: repeat(4, 1fr); gap: 0.4rem; margin-top: 0.4rem; }
.strip div { min-width: 0; }
.strip img, .strip .none { display: block; width: 100%; aspect-ratio: 4 / 3;
  object-fit: contain; background: #eceff2; border: 1px solid var(--line); }
.strip .none { display: grid; place-items: center; color: var(--quiet); font-size: 0.85rem; }
.strip span { display: block; color: var(--quiet); font-size: 0.8rem; }
@media (max-width: 40rem) { .strip { grid-template-columns: repeat(2, 1fr); }
  body { font-size: 15px; } .bar { width: 4rem; } }
@media print { body { max-width: none; padding: 0; font-size: 10.5pt; } nav { display: none; }
  figure, tr, .tile, .lead, .warning { break-inside: avoid; } h2 { break-after: avoid; }
  .wide { overflow: visible; } table { font-size: 7.5pt; } th, td { padding: 0.2rem 0.35rem; }
  th { white-space: normal; } thead { display: table-header-group; }
  details::details-content { content-visibility: visible; block-size: auto; }
  summary { display: none; } .bar { width: 4rem; } .plots { grid-template-columns: 1fr 1fr; }
  a { color: inherit; text-decoration: none; } }
"""
