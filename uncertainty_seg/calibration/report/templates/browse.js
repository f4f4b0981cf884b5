'use strict';
// Everything that comes from the table is set as text or as a checked address, never as HTML.
(() => {
  const data = JSON.parse(document.getElementById('data').textContent);
  const frames = data.frames, STEP = 24;
  const TITLES = ['image', 'predicted mask', 'uncertainty'];
  const byId = (id) => document.getElementById(id);
  let shown = [], limit = STEP;

  function make(name, options = {}, ...children) {
    const made = document.createElement(name);
    Object.assign(made, options);
    made.append(...children);
    return made;
  }

  // --- filters ---------------------------------------------------------------------------------
  const controls = {};
  function choice(id, words, values) {
    const select = make('select', { id, name: id });
    for (const [value, text] of values) select.append(make('option', { value, textContent: text }));
    controls[id] = select;
    byId('filters').append(make('label', { textContent: words }, select));
  }
  function range(id, words) {
    const pair = ['least', 'largest'].map((end) => {
      const input = make('input', { id: `${id}-${end}`, type: 'number', step: 'any',
        placeholder: end });
      input.setAttribute('aria-label', `${words}, ${end}`);
      controls[`${id}-${end}`] = input;
      return input;
    });
    byId('filters').append(make('label', { textContent: words },
      make('span', { className: 'range' }, ...pair)));
  }
  const dives = [...new Set(frames.map((frame) => frame.dive))].sort();
  const names = Object.keys(data.scores);
  choice('score', 'score', names.map((name) => [name, name]));
  controls.score.value = data.score;
  range('value', 'its value');
  choice('class', 'predicted class', [['', 'any'],
    ...data.classes.map((name, index) => [String(index), name])]);
  range('share', 'its share of the image, %');
  choice('dive', 'dive', [['', 'all'], ...dives.map((dive, index) => [String(index), dive])]);
  choice('flag', 'flag', [['', 'any'], ['1', 'confident'], ['0', 'not confident']]);
  if (data.hasSelection) {
    choice('selected', 'selection', [['', 'any'], ['1', 'selected'], ['0', 'not selected']]);
  }
  choice('order', 'sort by', [['down', 'score, the largest first'], ['up', 'score, the least first'],
    ['time', 'dive and time']]);

  const number = (id) => controls[id].value === '' ? null : Number(controls[id].value);
  const within = (value, id, scale) => {
    const least = number(`${id}-least`), largest = number(`${id}-largest`);
    if (least === null && largest === null) return true;
    return value !== null && (least === null || scale * value >= least)
      && (largest === null || scale * value <= largest);
  };
  const scoreOf = (index) => data.scores[controls.score.value][index];
  const text = (value) => value === null ? 'no number' : String(Number(value.toPrecision(4)));

  function fits(frame, index) {
    if (!within(scoreOf(index), 'value', 1)) return false;
    const chosen = controls.class.value;
    if (chosen !== '') {
      const share = data.shares[Number(chosen)][index];
      if (!(share > 0) || !within(share, 'share', 100)) return false;
    }
    if (controls.dive.value !== '' && frame.dive !== dives[Number(controls.dive.value)]) return false;
    if (controls.flag.value !== '' && frame.flag !== (controls.flag.value === '1')) return false;
    return !controls.selected || controls.selected.value === ''
      || (frame.selected !== null) === (controls.selected.value === '1');
  }
  function ordered(indices) {
    const order = controls.order.value, sign = order === 'up' ? 1 : -1;
    // A frame that could not be scored counts as most uncertain.
    const value = (index) => scoreOf(index) === null ? Infinity : scoreOf(index);
    const difference = (a, b) => value(a) === value(b) ? 0 : sign * (value(a) - value(b));
    const later = (a, b) => (frames[a].dive < frames[b].dive ? -1
      : frames[a].dive > frames[b].dive ? 1 : (frames[a].time || 0) - (frames[b].time || 0));
    return indices.sort((a, b) => (order === 'time' ? later(a, b) : difference(a, b)) || a - b);
  }

  // --- frames ----------------------------------------------------------------------------------
  function picture(address, words) {
    // An address of another kind would be none of ours.
    if (!address || !address.startsWith('data:image/jpeg;base64,')) {
      return make('div', { className: 'none', textContent: `no ${words}` });
    }
    return make('img', { src: address, alt: words, loading: 'lazy' });
  }
  function describe(index) {
    const frame = frames[index];
    const parts = [frame.dive, `${controls.score.value} ${text(scoreOf(index))}`,
      frame.flag ? 'confident' : `not confident (${frame.verdict})`];
    const classes = data.classes.map((name, k) => [data.shares[k][index], name])
      .filter(([share]) => share >= 0.005).sort((a, b) => b[0] - a[0]).slice(0, 4)
      .map(([share, name]) => `${name} ${Math.round(100 * share)} %`);
    if (classes.length) parts.push(classes.join(', '));
    if (frame.selected !== null) parts.push(`selected: ${frame.selected}`);
    parts.push(frame.key);
    return parts.join(' · ');
  }
  function card(index) {
    const frame = frames[index], row = make('div', { className: 'row' });
    frame.pictures.forEach((address, k) => row.append(make('figure', {},
      picture(address, TITLES[k]), make('figcaption', { textContent: TITLES[k] }))));
    return make('article', { className: 'card', id: `frame-${index}` }, row,
      make('div', { className: 'words', textContent: describe(index) }));
  }
  function list() {
    byId('cards').replaceChildren(...shown.slice(0, limit).map(card));
    byId('more').hidden = shown.length <= limit;
    byId('count').textContent = `${shown.length} of ${frames.length} frames fit`;
  }
  function filter() {
    shown = ordered(frames.map((_, index) => index).filter((index) => fits(frames[index], index)));
    limit = STEP;
    list();
  }

  byId('more').addEventListener('click', () => { limit += STEP; list(); });
  byId('filters').addEventListener('input', filter);
  byId('filters').addEventListener('submit', (event) => event.preventDefault());
  filter();
})();
