'use strict';
// Everything that comes from the table is set as text or as a checked address, never as HTML.
(() => {
  const data = JSON.parse(document.getElementById('data').textContent);
  const frames = data.frames, STEP = 24, SVG = 'http://www.w3.org/2000/svg';
  const TITLES = ['image', 'predicted mask', 'uncertainty', 'label'];
  // Told apart with any colour vision (Okabe and Ito); more dives share the last.
  const COLOURS = ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#999999'];
  const byId = (id) => document.getElementById(id);
  let shown = [], limit = STEP, current = -1, marked = null;

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
    ...data.classes.map((one, index) => [String(index), one.name])]);
  range('share', 'its share of the image, %');
  choice('dive', 'dive', [['', 'all'], ...dives.map((dive, index) => [String(index), dive])]);
  choice('flag', 'flag', [['', 'any'], ['1', 'confident'], ['0', 'not confident']]);
  if (data.hasTruth) {
    choice('label', 'label', [['', 'any'], ['reviewed', 'reviewed'],
      ['unreviewed', 'not reviewed'], ['none', 'none']]);
  }
  if (data.hasSelection) {
    choice('selected', 'selection', [['', 'any'], ['1', 'selected'], ['0', 'not selected']]);
  }
  choice('order', 'sort by', [['down', 'score, the largest first'], ['up', 'score, the least first'],
    ['time', 'dive and time']]);
  choice('colour', 'colour by', [['score', 'score'], ['class', 'largest class'], ['dive', 'dive']]);

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
    if (controls.label && controls.label.value !== '') {
      const state = frame.label === null ? 'none' : frame.reviewed ? 'reviewed' : 'unreviewed';
      if (state !== controls.label.value) return false;
    }
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

  // --- the plot --------------------------------------------------------------------------------
  function ramp(share) {
    // From pale to dark: the order is seen in grey, too.
    const low = [198, 219, 239], high = [107, 15, 40];
    return `rgb(${low.map((one, k) => Math.round(one + share * (high[k] - one))).join(',')})`;
  }
  function largest(index) {
    let best = 0;
    data.shares.forEach((share, k) => { if (share[index] > data.shares[best][index]) best = k; });
    return best;
  }
  const rgb = (one) => `rgb(${one.rgb.map(Number).join(',')})`;
  const diveColour = (dive) => COLOURS[Math.min(dives.indexOf(dive), COLOURS.length - 1)];
  function painter() {
    const by = controls.colour.value;
    if (by === 'class') return (index) => rgb(data.classes[largest(index)]);
    if (by === 'dive') return (index) => diveColour(frames[index].dive);
    const known = frames.map((_, index) => scoreOf(index)).filter((value) => value !== null);
    const sorted = known.sort((a, b) => a - b);
    // By rank, so that one extreme value does not make all others alike.
    const rank = (value) => sorted.length < 2 ? 0
      : sorted.findIndex((one) => one >= value) / (sorted.length - 1);
    return (index) => scoreOf(index) === null ? '#ff00ff' : ramp(rank(scoreOf(index)));
  }
  function legend() {
    const by = controls.colour.value;
    let parts = [[ramp(0), 'lowest'], [ramp(0.5), 'middle'], [ramp(1), 'highest'],
      ['#ff00ff', 'no number']];
    if (by === 'class') parts = data.classes.map((one) => [rgb(one), one.name]);
    if (by === 'dive') {
      parts = dives.slice(0, COLOURS.length).map((dive) => [diveColour(dive), dive]);
      if (dives.length > COLOURS.length) parts[parts.length - 1][1] = 'all other dives';
    }
    byId('legend').replaceChildren(...parts.map(([colour, words]) => {
      const swatch = make('i', { className: 'swatch' });
      swatch.style.background = colour;
      return make('span', {}, swatch, words);
    }));
  }
  function circle(at, radius) {
    const made = document.createElementNS(SVG, 'circle');
    made.setAttribute('cx', 100 * at[0]);
    made.setAttribute('cy', 75 * (1 - at[1]));
    made.setAttribute('r', radius);
    return made;
  }
  function draw() {
    const paint = painter(), plot = byId('plot');
    const dots = data.dots.map((at) => {
      const made = circle(at, 0.5);
      made.classList.add('other');
      return made;
    });
    for (const index of [...shown].reverse()) {
      const { at } = frames[index];
      if (at[0] === null || at[1] === null) continue;
      const made = circle(at, 1);
      made.style.fill = paint(index);
      made.dataset.frame = index;
      if (index === current) made.classList.add('on');
      dots.push(made);
    }
    plot.replaceChildren(...dots);
    legend();
  }
  function peek(index) {
    const frame = frames[index], parts = [picture(frame.pictures[0], 'image')];
    byId('peek').replaceChildren(...parts, make('div', { className: 'words' }, describe(index)));
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
    const classes = data.classes.map((one, k) => [data.shares[k][index], one.name])
      .filter(([share]) => share >= 0.005).sort((a, b) => b[0] - a[0]).slice(0, 4)
      .map(([share, name]) => `${name} ${Math.round(100 * share)} %`);
    if (classes.length) parts.push(classes.join(', '));
    if (frame.label !== null) {
      parts.push(`label ${frame.label}${frame.reviewed ? '' : ', not reviewed'}`);
    }
    if (frame.selected !== null) parts.push(`selected: ${frame.selected}`);
    parts.push(frame.key);
    return parts.join(' · ');
  }
  function card(index) {
    const frame = frames[index], row = make('div', { className: 'row' });
    frame.pictures.forEach((address, k) => {
      if (!address && k > 0) return;
      const box = make('div', { className: 'frame' }, picture(address, TITLES[k]));
      if (marked && marked.frame === index) box.append(outline(marked.box, box));
      row.append(make('figure', {}, box, make('figcaption', { textContent: TITLES[k] })));
    });
    const made = make('article', { className: 'card', id: `frame-${index}` }, row,
      make('div', { className: 'words', textContent: describe(index) }));
    if (index === current) made.classList.add('on');
    return made;
  }
  function outline(box, holder) {
    const made = make('div', { className: 'box' });
    const image = holder.querySelector('img');
    const place = () => {
      // The picture is fitted into 4:3 and may leave bars.
      const ratio = (image.naturalWidth / image.naturalHeight) / (4 / 3);
      const wide = Math.min(1, ratio), high = Math.min(1, 1 / ratio);
      made.style.left = `${50 * (1 - wide) + wide * box[0]}%`;
      made.style.top = `${50 * (1 - high) + high * box[1]}%`;
      made.style.width = `${wide * box[2]}%`;
      made.style.height = `${high * box[3]}%`;
    };
    if (image) {
      image.addEventListener('load', place);
      if (image.complete && image.naturalWidth) place();
    }
    return made;
  }
  function list() {
    byId('cards').replaceChildren(...shown.slice(0, limit).map(card));
    byId('more').hidden = shown.length <= limit;
    byId('count').textContent = `${shown.length} of ${frames.length} frames fit`;
  }
  function open(index, suspect = null) {
    current = index;
    marked = suspect;
    const place = shown.indexOf(index);
    if (place < 0) {
      shown = [index, ...shown];  // the filters leave it out, and it was asked for
    } else if (place >= limit) {
      limit = STEP * Math.ceil((place + 1) / STEP);
    }
    list();
    draw();
    peek(index);
    byId(`frame-${index}`).scrollIntoView({ block: 'center' });
  }
  function filter() {
    shown = ordered(frames.map((_, index) => index).filter((index) => fits(frames[index], index)));
    limit = STEP;
    list();
    draw();
  }

  // --- suspected labels ------------------------------------------------------------------------
  const errors = document.querySelector('#errors tbody');
  if (errors) {
    for (const one of data.suspects) {
      const cells = [frames[one.frame].label, data.classes[one.given].name,
        data.classes[one.predicted].name, text(one.margin), text(one.evidence),
        `${text(100 * one.share)} %`];
      const row = make('tr', { tabIndex: 0 },
        ...cells.map((words, k) => make(k ? 'td' : 'th', { textContent: words })));
      row.addEventListener('click', () => open(one.frame, one));
      row.addEventListener('keydown', (event) => { if (event.key === 'Enter') open(one.frame, one); });
      errors.append(row);
    }
  }

  const target = (event) => event.target.dataset && event.target.dataset.frame;
  byId('plot').addEventListener('pointerover', (event) => {
    if (target(event) !== undefined) peek(Number(target(event)));
  });
  byId('plot').addEventListener('click', (event) => {
    if (target(event) !== undefined) open(Number(target(event)));
  });
  byId('more').addEventListener('click', () => { limit += STEP; list(); });
  byId('filters').addEventListener('input', filter);
  byId('filters').addEventListener('submit', (event) => event.preventDefault());
  filter();
})();
