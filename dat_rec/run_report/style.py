"""How the page looks: on a phone and on a desk, in light and dark, and on paper.

The colours are Okabe and Ito's, which are told apart by eyes of all kinds; curves differ by their
dashes too, and points by their shapes.
"""

STYLE = """
:root{--text:#1b1f24;--soft:#57606a;--back:#fff;--card:#f6f8fa;--line:#d0d7de;--grid:#e6eaef;
--c0:#0072b2;--c1:#d55e00;--c2:#009e73;--c3:#b0528e;--c4:#c98500;--c5:#2f9fd8;--c6:#7a5195;
--c7:#6b4f2a;--other:#b6bec7;color-scheme:light dark}
@media (prefers-color-scheme:dark){:root{--text:#e6edf3;--soft:#9aa5b1;--back:#0f1318;
--card:#181e26;--line:#333c47;--grid:#252d37;--c0:#56b4e9;--c1:#ff8a3d;--c2:#2bd4a0;--c3:#e79cc8;
--c4:#f0b429;--c5:#8fd0ff;--c6:#b99be0;--c7:#c9a877;--other:#55606c}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--back);color:var(--text);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main,header,footer{max-width:1180px;margin:0 auto;padding:0 16px}
header{padding-top:24px}
h1{font-size:26px;line-height:1.25;margin:0 0 4px;overflow-wrap:anywhere}
h2{font-size:20px;margin:0 0 8px;padding-top:28px;border-top:1px solid var(--line)}
h3{font-size:16px;margin:20px 0 6px;overflow-wrap:anywhere}
h4{font-size:13px;margin:10px 0 2px;color:var(--soft);overflow-wrap:anywhere}
section{margin-top:36px;min-width:0}
nav ul{list-style:none;display:flex;flex-wrap:wrap;gap:4px 16px;padding:0;margin:12px 0 0}
a{color:var(--c0)}
p{margin:6px 0}
bdi{overflow-wrap:anywhere}
code,pre{font:13px/1.45 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
code{overflow-wrap:anywhere}
pre{overflow-x:auto;background:var(--card);border:1px solid var(--line);border-radius:6px;
padding:10px 12px;margin:8px 0}
.note,.state,.path,small,footer{color:var(--soft)}
.note{max-width:80ch;font-size:14px}
.path,.state{font-size:13px}
.missing{border-left:3px solid var(--c4);background:var(--card);padding:6px 10px;margin:10px 0;
border-radius:0 6px 6px 0;overflow-wrap:anywhere}
.grid,.cards,.wide{display:grid;gap:16px;align-items:start}
.grid{grid-template-columns:repeat(auto-fill,minmax(min(330px,100%),1fr))}
.cards{grid-template-columns:repeat(auto-fit,minmax(min(340px,100%),1fr))}
.wide{grid-template-columns:repeat(auto-fit,minmax(min(480px,100%),1fr))}
.grid>*,.cards>*,.wide>*{min-width:0}
.wide .run{max-width:640px}
.card{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:12px 14px}
.card h3{margin-top:0}
.card ol{margin:6px 0 0;padding-left:22px}
.card li{margin:3px 0}
.card .note{margin:0}
.cosine{font-variant-numeric:tabular-nums;color:var(--soft);font-size:13px}
dl{display:grid;grid-template-columns:repeat(auto-fill,minmax(128px,1fr));gap:8px 14px;
margin:10px 0}
dt{color:var(--soft);font-size:13px}
dd{margin:0;font-size:17px;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
figure{margin:8px 0}
figcaption{font-weight:600;font-size:14px;margin-bottom:4px}
svg{display:block;width:100%;height:auto}
svg text{font-size:11px;fill:var(--soft);font-family:inherit}
svg .grid{stroke:var(--grid);stroke-width:1;fill:none}
svg .axis{stroke:var(--line);stroke-width:1;fill:none}
svg .mark{stroke:var(--soft);stroke-width:1;stroke-dasharray:2 3;fill:none}
svg .curve{fill:none;stroke-width:2;stroke-linejoin:round}
svg .dashed{stroke-dasharray:5 3;stroke-width:1.5}
svg .s1.curve:not(.dashed){stroke-dasharray:8 3}
svg .s2.curve:not(.dashed){stroke-dasharray:2 3}
svg .s3.curve:not(.dashed){stroke-dasharray:8 3 2 3}
svg .dots{fill:none;stroke-width:6;stroke-linecap:round;stroke-opacity:.75}
svg .square{stroke-linecap:square;stroke-width:5}
svg .named{fill:var(--back);stroke:var(--text);stroke-width:1.5}
svg .named+text{fill:var(--text);font-weight:700}
svg .sother{stroke:var(--other);stroke-width:4}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:2px 14px;padding:0;margin:6px 0;
font-size:13px}
.swatch{display:inline-block;width:11px;height:11px;border-radius:50%;margin-right:5px}
.square.swatch{border-radius:1px}
.fother{background:var(--other)}
.scroll{overflow-x:auto;margin:10px 0}
.scroll:focus-visible{outline:2px solid var(--c0)}
table{border-collapse:collapse;font-size:14px;min-width:min(420px,100%)}
caption{text-align:left;font-weight:600;padding:0 0 6px;caption-side:top}
th,td{text-align:left;padding:4px 14px 4px 0;border-bottom:1px solid var(--grid);
vertical-align:top;font-weight:400}
thead th{color:var(--soft);font-size:13px;vertical-align:bottom;border-bottom-color:var(--line)}
.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
tbody .group{font-weight:600;padding-top:14px}
.model th,.model td{background:var(--card)}
thead .number{white-space:normal}
tbody th:not(.group){max-width:44ch}
thead th{max-width:24ch}
th,th bdi{overflow-wrap:break-word}
.bar{display:block;height:4px;min-width:72px;background:var(--grid);border-radius:2px;margin-top:3px}
.bar span{display:block;height:4px;background:var(--c0);border-radius:2px}
.stack{display:flex;height:14px;min-width:120px;background:var(--grid);border-radius:3px;
overflow:hidden}
.stack.tall{height:22px;margin-top:4px}
.numbered{display:inline-block;min-width:22px;height:22px;border:1.5px solid var(--text);
border-radius:11px;text-align:center;font-size:13px;line-height:19px;font-weight:700}
details{margin:10px 0}
summary{cursor:pointer;color:var(--c0)}
.lines{padding-left:18px;font-size:14px}
footer{font-size:13px;padding:24px 16px 40px}
@media (max-width:480px){body{font-size:16px}th,td{padding-right:10px}h1{font-size:22px}
svg .dots{stroke-width:7}
.bar{min-width:48px}tbody th:not(.group){max-width:24ch}}
@media print{.scroll{overflow:visible}a{color:inherit}section{break-inside:avoid}}
"""
COLOURS = "".join(
    f"svg .s{number}{{stroke:var(--c{number})}}.f{number}{{background:var(--c{number})}}"
    for number in range(8)
)
"""The runs' and categories' colours, of strokes and of backgrounds."""
