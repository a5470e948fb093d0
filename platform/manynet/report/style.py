"""The report's style sheet."""

CSS = """
:root { --ink: #1f2937; --muted: #6b7280; --line: #e5e7eb; --page: #f6f7f9; --accent: #2563eb; }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
header, main { max-width: 1180px; margin: 0 auto; padding: 0 20px; }
header { padding-top: 32px; }
h1 { margin: 0; font-size: 28px; line-height: 1.2; letter-spacing: -0.01em; overflow-wrap: anywhere; }
h2 { margin: 0 0 2px; font-size: 18px; }
a { color: var(--accent); text-decoration: none; }
a:hover { text-decoration: underline; }
code { font: 12px/1.5 ui-monospace, monospace; overflow-wrap: anywhere; }
small { color: var(--muted); font-size: 12px; font-weight: 400; }
nav { display: flex; flex-wrap: wrap; gap: 6px 18px; margin: 14px 0; font-size: 14px; }
.facts { display: flex; flex-wrap: wrap; gap: 2px 20px; margin: 8px 0 0; color: var(--muted); font-size: 14px; }
.facts span { overflow-wrap: anywhere; }
.facts b { color: var(--ink); font-weight: 600; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(148px, 1fr)); gap: 12px; margin: 0 0 16px; }
.cards div, section { background: #fff; border: 1px solid var(--line); border-radius: 10px; }
.cards div { padding: 12px 14px; display: flex; flex-direction: column; justify-content: space-between; }
.cards dt { color: var(--muted); font-size: 12.5px; line-height: 1.3; overflow-wrap: anywhere; }
.cards dd { margin: 2px 0 0; font-size: 22px; font-weight: 650; line-height: 1.2; }
.cards small { display: block; margin-top: 3px; }
section { margin: 0 0 16px; padding: 18px 20px; scroll-margin-top: 12px; }
.note { margin: 0 0 6px; color: var(--muted); font-size: 14px; max-width: 120ch; }
.good { color: #15803d; } .bad { color: #b45309; }
.empty { margin: 8px 0 2px; padding: 18px; border: 1px dashed #cbd2dc; border-radius: 8px; color: var(--muted); }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(460px, 100%), 1fr)); gap: 12px; }
.grid > * { min-width: 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { padding: 8px 12px 8px 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { color: var(--muted); font-size: 13px; font-weight: 600; }
td:first-child { min-width: 200px; max-width: 380px; }
td:not(:first-child) { white-space: nowrap; }
td a { display: block; font-size: 13px; }
tbody tr:last-child td { border-bottom: 0; }
.mixes { display: flex; flex-wrap: wrap; align-items: flex-start; gap: 14px 40px; margin-top: 10px; overflow-x: auto; }
.mixes table { width: auto; font-size: 13px; }
.mixes th, .mixes td { padding: 3px 10px; border-bottom: 1px solid #fff; }
.mixes td:first-child { min-width: 0; padding-left: 0; color: var(--muted); }
.mixes th:first-child { padding-left: 0; color: var(--ink); }
.mixes td:not(:first-child), .mixes th:not(:first-child) { text-align: right; min-width: 52px; }
summary { cursor: pointer; }
section > details { margin-top: 8px; font-size: 14px; color: var(--muted); }
section > details table { color: var(--ink); }
@media (max-width: 640px) { header, main { padding-left: 12px; padding-right: 12px; } section { padding: 14px 12px; } }
@media print { nav { display: none; } section { break-inside: avoid; } }
"""
