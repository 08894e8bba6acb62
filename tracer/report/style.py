"""The style sheet of the report in HTML: light and dark, wide, narrow and on paper."""

from __future__ import annotations

import base64
import hashlib
from typing import Final

__all__ = ["POLICY", "SHEET"]

SHEET: Final = """
:root{color-scheme:light dark;--back:#fff;--card:#f5f6f8;--fore:#1b1f24;--soft:#596270;--line:#d6dae0;--link:#0b57d0;
--process:#2f6fde;--network:#188038;--file:#a35f00;--refused:#c5221f;--other:#7b3fb5}
@media (prefers-color-scheme:dark){:root{--back:#15181d;--card:#1f242b;--fore:#e6e9ee;--soft:#a2abb8;--line:#3a424d;
--link:#8ab4f8;--process:#7aa7ff;--network:#6fcf8b;--file:#f0b45c;--refused:#ff8a80;--other:#cfa3ff}}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--fore);
font:15px/1.5 system-ui,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main,header,footer,nav{max-width:1180px;margin:0 auto;padding:0 20px}
header{padding-top:28px}
h1{font-size:1.7rem;line-height:1.25;margin:0 0 4px;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:34px 0 10px;padding-top:6px;border-top:1px solid var(--line)}
h3{font-size:1rem;margin:18px 0 6px}
p{margin:6px 0}
a{color:var(--link)}
.soft{color:var(--soft)}
.alert{border-left:4px solid var(--refused);padding:8px 14px;background:var(--card);margin:14px 0}
.fine{border-left:4px solid var(--network);padding:8px 14px;background:var(--card);margin:14px 0}
.note{border-left:4px solid var(--process);padding:8px 14px;background:var(--card);margin:14px 0}
code,pre,.mono{font:13px/1.45 ui-monospace,"SFMono-Regular",Menlo,Consolas,"DejaVu Sans Mono",monospace}
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:var(--card);padding:10px 12px;border-radius:6px;margin:6px 0}
nav{display:flex;flex-wrap:wrap;gap:4px 16px;padding-top:10px}
.cards{display:flex;flex-wrap:wrap;gap:10px;margin:16px 0;padding:0;list-style:none}
.cards li{background:var(--card);border-radius:8px;padding:8px 14px;min-width:104px}
.cards b{display:block;font-size:1.35rem;line-height:1.3}
dl{display:grid;grid-template-columns:minmax(120px,max-content) 1fr;gap:4px 18px;margin:0}
dt{color:var(--soft)}
dd{margin:0;overflow-wrap:anywhere;min-width:0}
.wide{overflow-x:auto;margin:8px 0}
table{border-collapse:collapse;width:100%;min-width:620px;font-size:14px}
th{text-align:left;color:var(--soft);font-weight:600;border-bottom:2px solid var(--line);padding:4px 12px 4px 0;
white-space:nowrap}
td{border-bottom:1px solid var(--line);padding:4px 12px 4px 0;vertical-align:top;overflow-wrap:anywhere;min-width:120px}
td.n,th.n{min-width:60px;text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
.time{white-space:nowrap}
.tree ul,ul.tree{list-style:none;margin:0;padding-left:18px;border-left:1px solid var(--line)}
ul.tree{padding-left:0;border:0}
.tree li{margin:3px 0;overflow-wrap:anywhere}
.tree .asked>span{font-weight:700}
.bad{color:var(--refused)}
.tags span{display:inline-block;border:1px solid var(--line);border-radius:10px;padding:0 8px;margin:2px 4px 2px 0}
svg{display:block;min-width:640px;width:100%;height:auto}
svg text{fill:var(--fore);font:11px ui-monospace,Menlo,Consolas,"DejaVu Sans Mono",monospace}
svg .axis{fill:var(--soft)}
svg .grid{stroke:var(--line);stroke-width:1}
svg .life{fill:var(--process);opacity:.55}
svg .process{fill:var(--process)}svg .network{fill:var(--network)}svg .file{fill:var(--file)}
svg .refused{fill:var(--refused)}svg .other{fill:var(--other)}
.key{display:flex;flex-wrap:wrap;gap:2px 16px;font-size:13px}
.key svg{display:inline-block;width:11px;min-width:11px;height:11px;margin-right:5px}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(270px,1fr));gap:14px}
.charts figure{margin:0;background:var(--card);border-radius:8px;padding:10px 12px}
.charts svg{min-width:0}
figcaption{font-size:13px;overflow-wrap:anywhere}
footer{padding-top:24px;padding-bottom:36px;color:var(--soft);font-size:13px}
@media (max-width:640px){main,header,footer,nav{padding-left:14px;padding-right:14px}dl{grid-template-columns:1fr;gap:0}
dd{margin-bottom:8px}.tree ul{padding-left:10px}h1{font-size:1.35rem}.cards li{min-width:88px;padding:6px 10px}}
@media print{:root{--back:#fff;--card:#fff;--fore:#000;--soft:#444;--line:#bbb;--link:#000}nav{display:none}
body{font-size:11px}main,header,footer{max-width:none;padding:0}h2,h3{break-after:avoid}tr,figure{break-inside:avoid}
.wide{overflow:visible}svg,table{min-width:0}thead{display:table-header-group}}
"""
"""All of it. It stands in the page as it is here: nothing in it ends its element."""

_DIGEST: Final = base64.b64encode(hashlib.sha256(SHEET.encode()).digest()).decode()

POLICY: Final = f"default-src 'none'; style-src 'sha256-{_DIGEST}'; img-src data:; base-uri 'none'; form-action 'none'"
"""What a browser may take: this sheet, and pictures that are in the page (its icon is an empty one). No script runs."""
