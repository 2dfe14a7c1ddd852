"""Style and script of the page of samples. Without the script the page still shows all: each picture is a link to its file."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256

from stages.pages.charts import STYLE as CURVES

STYLE = (
    CURVES
    + """
:root { --given: #1d4ed8; --made: #b93c05; }
@media (prefers-color-scheme: dark) { :root { --given: #8ab4ff; --made: #ffa36b; } }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 82rem; margin: 1.5rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2rem 0 .6rem; }
h2 small { font-weight: 400; opacity: .75; }
.facts { margin: .2rem 0; font-size: .85rem; opacity: .85; overflow-wrap: anywhere; }
kbd { border: 1px solid var(--line); border-radius: 3px; padding: 0 .25rem; font-size: .8em; }
.documents { display: flex; flex-wrap: wrap; gap: .9rem; align-items: flex-start; }
article { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .7rem; max-width: 100%;
  display: flex; flex-direction: column; gap: .5rem; overflow-wrap: anywhere; }
article > footer { margin-top: auto; font-size: .75rem; opacity: .75; }
.given, .made { border-left: 3px solid; padding-left: .6rem; min-width: 0; }
.given { border-color: var(--given); } .made { border-color: var(--made); }
.given::before { content: 'given'; color: var(--given); } .made::before { content: 'model'; color: var(--made); }
.given::before, .made::before { display: block; font-size: .7rem; line-height: 1.2; }
p { margin: 0 0 .4rem; white-space: pre-wrap; } .made p { font-weight: 500; }
.given p, .made p { max-height: 20rem; overflow: auto; }
.note { font-size: .75rem; opacity: .8; margin: .2rem 0; }
.takes { display: flex; flex-wrap: wrap; gap: .7rem; }
.picture { display: inline-block; margin: 0 0 .3rem; border-radius: 4px; vertical-align: top; max-width: 100%; }
.picture img { display: block; border-radius: 4px; max-width: 100%; height: auto; }
.small { image-rendering: pixelated; }
.steps { display: block; font-size: .75rem; }
a:focus-visible, button:focus-visible, p:focus-visible, summary:focus-visible {
  outline: 3px solid var(--given); outline-offset: 2px; }
dialog { border: 0; border-radius: 8px; padding: 1rem; max-width: 96vw; max-height: 96vh; text-align: center; }
dialog::backdrop { background: #000b; }
dialog img { width: min(80vmin, 88vw); height: auto; max-height: 80vh; object-fit: contain; border-radius: 4px; }
dialog p { margin: .5rem auto 0; max-width: 80vmin; max-height: 5.5rem; overflow: auto; font-size: .9rem; }
dialog button { font: inherit; margin: .5rem .2rem 0; padding: .1rem .7rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; font-size: .85rem; overflow-wrap: anywhere; }
dt { opacity: .75; } dd { margin: 0; }
details { margin-top: 2.5rem; } summary { cursor: pointer; }
.curves { margin-top: 1rem; }
"""
)

# Arrow keys are taken only where a picture has the focus or is shown large (left and right also from the page itself, where
# they do nothing), so that the page still scrolls.
SCRIPT = """
const pictures = [...document.querySelectorAll('a.picture')];
const dialog = document.querySelector('dialog');
const large = dialog.querySelector('img'), words = dialog.querySelector('p');
let shown = -1;
function show(index, source) {
  shown = (index + pictures.length) % pictures.length;
  const link = pictures[shown], small = link.querySelector('img');
  large.src = source || link.href;
  large.alt = small.alt;
  large.className = small.className;
  words.textContent = (shown + 1) + ' of ' + pictures.length + ': ' + small.alt;
  if (!dialog.open) dialog.showModal();
}
function beside(link, key) {
  const here = link.getBoundingClientRect(), x = here.left + here.width / 2, y = here.top + here.height / 2;
  const places = pictures.map(other => ({other, box: other.getBoundingClientRect()}))
    .filter(({box}) => key === 'ArrowUp' ? box.bottom <= here.top + 1 : box.top >= here.bottom - 1)
    .map(({other, box}) => ({other, up: Math.abs(box.top + box.height / 2 - y), across: Math.abs(box.left + box.width / 2 - x)}));
  places.sort((a, b) => a.up + 2 * a.across - b.up - 2 * b.across);
  return places.length ? places[0].other : link;
}
document.addEventListener('click', event => {
  const link = event.target.closest('a.picture, a.steps');
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  event.preventDefault();
  const steps = link.classList.contains('steps');
  show(pictures.indexOf(steps ? link.closest('.drawn').querySelector('a.picture') : link), steps ? link.href : '');
});
dialog.addEventListener('click', event => {
  const act = event.target.dataset.act;
  if (event.target === dialog || act === 'close') dialog.close();
  if (act === 'back') show(shown - 1);
  if (act === 'on') show(shown + 1);
});
dialog.addEventListener('close', () => { pictures[shown].focus(); large.removeAttribute('src'); });
document.addEventListener('keydown', event => {
  const {key} = event, here = pictures.indexOf(document.activeElement);
  const step = {ArrowLeft: -1, ArrowRight: 1}[key] || 0;
  if (event.ctrlKey || event.metaKey || event.altKey || !pictures.length) return;
  let next = null;
  if (dialog.open) {
    if (step) { show(shown + step); event.preventDefault(); }
    return;
  }
  if (here < 0) {
    if (!step || document.activeElement !== document.body) return;
    next = pictures.find(link => link.getBoundingClientRect().bottom > 0) || pictures[0];
  } else if (step) next = pictures[Math.min(Math.max(here + step, 0), pictures.length - 1)];
  else if (key === 'Home') next = pictures[0];
  else if (key === 'End') next = pictures[pictures.length - 1];
  else if (key === 'ArrowUp' || key === 'ArrowDown') next = beside(pictures[here], key);
  if (next) { next.focus(); event.preventDefault(); }
});
"""

# no other script may run and nothing may be fetched from elsewhere, whatever a prompt or a model's text holds
_SUM = b64encode(sha256(SCRIPT.encode()).digest()).decode()
POLICY = f"default-src 'none'; img-src 'self' file:; style-src 'unsafe-inline'; script-src 'sha256-{_SUM}'"
