"""The script of the page of samples. Without it the page still shows all: each picture is a link to its file."""

from __future__ import annotations

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
function nearest(link, key) {
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
  else if (key === 'ArrowUp' || key === 'ArrowDown') next = nearest(pictures[here], key);
  if (next) { next.focus(); event.preventDefault(); }
});
"""
