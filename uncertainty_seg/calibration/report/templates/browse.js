'use strict';
// Everything that comes from the table is set as text or as a checked address, never as HTML.
(() => {
  const data = JSON.parse(document.getElementById('data').textContent);
  const count = data.keys.length, STEP = 24;
  const isServed = location.protocol !== 'file:';
  const TITLES = ['image', 'predicted mask', 'uncertainty'];
  const byId = (id) => document.getElementById(id);
  const unpacked = {};
  let shown = [], limit = STEP;

  // A column of numbers, one a frame, float32; unpacked when it is first asked for.
  function column(place) {
    unpacked[place] ||= new Float32Array(Uint8Array.from(
      atob(byId(`column-${place}`).textContent), (letter) => letter.charCodeAt(0)).buffer);
    return unpacked[place];
  }
  const DIVE = 0, TIME = 1, FLAG = 2, VERDICT = 3, SCORES = 4;
  const SHARES = SCORES + data.scores.length;

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
  choice('score', 'score', data.scores.map((name, index) => [String(index), name]));
  range('value', 'its value');
  choice('class', 'predicted class', [['', 'any'],
    ...data.classes.map((name, index) => [String(index), name])]);
  range('share', 'its share of the image, %');
  choice('dive', 'dive', [['', 'all'], ...data.dives.map((dive, index) => [String(index), dive])]);
  choice('flag', 'flag', [['', 'any'], ['1', 'confident'], ['0', 'not confident']]);
  choice('pictured', 'pictures', [['', 'any'], ['1', 'in this page']]);
  if (Object.keys(data.selected).length) {
    choice('selected', 'selection', [['', 'any'], ['1', 'selected'], ['0', 'not selected']]);
  }
  choice('order', 'sort by', [['down', 'score, highest first'], ['up', 'score, lowest first'],
    ['time', 'dive and time']]);

  const number = (id) => controls[id].value === '' ? null : Number(controls[id].value);
  const within = (value, id, scale) => {
    const least = number(`${id}-least`), largest = number(`${id}-largest`);
    if (least === null && largest === null) return true;
    return !Number.isNaN(value) && (least === null || scale * value >= least)
      && (largest === null || scale * value <= largest);
  };
  const scores = () => column(SCORES + Number(controls.score.value));
  const text = (value) => Number.isNaN(value) ? 'no number' : String(Number(value.toPrecision(4)));
  const is = (id, value) => controls[id].value === '' || Number(controls[id].value) === Number(value);

  function fits(index) {
    if (!within(scores()[index], 'value', 1)) return false;
    const chosen = controls.class.value;
    if (chosen !== '') {
      const share = column(SHARES + Number(chosen))[index];
      if (!(share > 0) || !within(share, 'share', 100)) return false;
    }
    return is('dive', column(DIVE)[index]) && is('flag', column(FLAG)[index])
      && is('pictured', index in data.pictures)
      && (!controls.selected || is('selected', index in data.selected));
  }
  function ordered(indices) {
    const order = controls.order.value, sign = order === 'up' ? 1 : -1;
    const values = order === 'time' ? column(TIME) : scores();
    // A frame that could not be scored counts as most uncertain.
    const value = (index) => Number.isNaN(values[index]) ? Infinity : values[index];
    return indices.sort((a, b) => (value(a) === value(b) ? 0
      : order === 'time' || sign > 0 ? value(a) - value(b) : value(b) - value(a)) || a - b);
  }

  // --- frames ----------------------------------------------------------------------------------
  // SOURCE#TOPIC#NAME, of a photograph with its file's name.
  const nameOf = (index) => data.keys[index].split('#').slice(2).join('#');
  function addresses(index) {
    if (index in data.pictures) return data.pictures[index];
    if (isServed) return TITLES.slice(0, data.drawn).map((_, place) => `/frame/${index}/${place}`);
    const source = Object.keys(data.places).find((one) => data.keys[index].startsWith(`${one}##`));
    return [source === undefined ? ''
      : `${data.places[source]}/${encodeURIComponent(data.keys[index].slice(source.length + 2))}`];
  }
  const none = (words) => make('div', { className: 'none', textContent: isServed
    ? `the ${words} cannot be read` : `no ${words} in this page` });
  function picture(address, words) {
    // An address of another kind would be none of ours.
    if (!/^(data:image\/jpeg;base64,|file:|\/frame\/)/.test(address)) return none(words);
    const made = make('img', { src: address, alt: words, loading: 'lazy' });
    made.addEventListener('error', () => made.replaceWith(none(words)));
    return made;
  }
  function reason(index) {
    if (index in data.selected) return data.selected[index].split(';')[0];
    const why = data.why[index] || data.verdicts[column(VERDICT)[index]];
    return column(FLAG)[index] ? 'confident' : `not confident: ${why.split(';')[0]}`;
  }
  function numbers(index) {
    const classes = data.classes.map((name, k) => [column(SHARES + k)[index], name])
      .filter(([share]) => share >= 0.005).sort((a, b) => b[0] - a[0])
      .map(([share, name]) => `${name} ${Math.round(100 * share)} %`);
    return [`${data.scores[Number(controls.score.value)]} ${text(scores()[index])}`, ...classes,
      data.selected[index], data.why[index], data.keys[index]].filter(Boolean).join(' · ');
  }
  function card(index) {
    const row = make('div', { className: 'row' });
    addresses(index).forEach((address, k) => row.append(make('figure', {},
      picture(address, TITLES[k]), make('figcaption', { textContent: TITLES[k] }))));
    const more = make('details', {}, make('summary', { textContent: 'numbers' }));
    more.addEventListener('toggle', () => more.children.length > 1
      || more.append(make('p', { textContent: numbers(index) })));
    return make('article', { className: 'card', id: `frame-${index}` },
      make('h3', { textContent: `${nameOf(index)} · ${data.dives[column(DIVE)[index]]}` }),
      make('p', { textContent: reason(index) }), row, more);
  }
  function list() {
    byId('cards').replaceChildren(...shown.slice(0, limit).map(card));
    byId('more').hidden = shown.length <= limit;
    byId('count').textContent = `${shown.length} of ${count} frames match`;
  }
  function filter() {
    shown = ordered([...Array(count).keys()].filter(fits));
    limit = STEP;
    list();
  }

  byId('more').addEventListener('click', () => { limit += STEP; list(); });
  byId('filters').addEventListener('input', filter);
  byId('filters').addEventListener('submit', (event) => event.preventDefault());
  filter();
})();
