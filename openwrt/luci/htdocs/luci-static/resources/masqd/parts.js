'use strict';
'require baseclass';

// Pieces of the pages. E() takes a text for HTML unless it stands in a list: every text here does, because some come
// from packets and from what hosts call themselves.

const UNITS = [ '', 'k', 'M', 'G', 'T', 'P' ];
const SVG = 'http://www.w3.org/2000/svg';

const STYLE = `
.masqd-cards { display: flex; flex-wrap: wrap; gap: 1em; margin: 1em 0; }
.masqd-card { flex: 1 1 15em; min-width: 0; border: 1px solid rgba(128,128,128,.35); border-radius: 4px; padding: .7em 1em; }
.masqd-card h4 { margin: 0 0 .4em; font-size: 100%; padding: 0; }
.masqd-figure { font-size: 150%; font-weight: bold; }
.masqd-state { font-size: 115%; padding: .8em 1em; border-left: 5px solid #37b24d; background: rgba(128,128,128,.09); margin: 1em 0; overflow-wrap: anywhere; }
.masqd-state.off { border-left-color: #868e96; }
.masqd-state.amiss { border-left-color: #e8590c; }
.masqd-bar { background: rgba(128,128,128,.22); height: .6em; border-radius: .3em; overflow: hidden; margin-top: .25em; }
.masqd-bar > div { background: #3b82c4; height: 100%; }
.masqd-graph { width: 100%; height: 4.5em; display: block; margin-top: .4em; }
.masqd-graph polyline { fill: none; stroke-width: 1.5; vector-effect: non-scaling-stroke; }
.masqd-legend > span { margin-right: 1em; white-space: nowrap; }
.masqd-key { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .35em; }
.masqd-host { display: grid; grid-template-columns: minmax(0, 1fr) auto; gap: 0 1em; margin-bottom: .5em; }
.masqd-host > :first-child { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.masqd-host .masqd-bar { grid-column: 1 / 3; }
.masqd-times { display: flex; align-items: flex-end; gap: 1px; height: 2.2em; min-width: 8em; }
.masqd-times > div { flex: 1 1 0; min-height: 1px; background: #3b82c4; }
.masqd-warning { display: flex; flex-wrap: wrap; gap: .5em 1em; align-items: center; justify-content: space-between; }
.masqd-warning > span { flex: 1 1 20em; min-width: 0; }
.masqd-tools { display: flex; flex-wrap: wrap; gap: .5em; align-items: center; margin: 1em 0; }
.masqd-tools input[type=text], .masqd-tools input:not([type]) { flex: 1 1 22em; min-width: 0; max-width: 26em; }
.masqd-tools select { width: auto; min-width: 8em; }
.masqd-steps { margin: .5em 0 1em 1.5em; list-style: decimal; }
.masqd-steps li { margin: .3em 0; }
.masqd-mono, .masqd-uci { font-family: monospace; overflow-wrap: anywhere; }
.masqd-uci { white-space: pre-wrap; padding: .6em; background: rgba(128,128,128,.12); margin: .5em 0; display: block; }
.masqd .td { overflow-wrap: anywhere; }
.masqd .td .btn { white-space: nowrap; }
.masqd .td .masqd-mono { overflow-wrap: normal; }
.masqd .td small { opacity: .75; white-space: nowrap; }
.masqd .td strong, .masqd .masqd-short { white-space: nowrap; }
.masqd .cbi-map-descr { margin-bottom: 1em; }
@media (max-width: 640px) {
	.masqd .td .masqd-mono { overflow-wrap: anywhere; }
	.masqd .table .tr.table-titles { display: none; }
	.masqd .table .tr { display: block; padding: .4em 0; border-bottom: 1px solid rgba(128,128,128,.3); }
	.masqd .table .td { display: flex; justify-content: space-between; gap: 1em; border: none; padding: .15em .2em; text-align: right; width: auto !important; }
	.masqd .table .td[data-title]::before { content: attr(data-title); flex: 0 0 auto; opacity: .7; text-align: left; font-weight: normal; }
	.masqd .table .td:empty { display: none; }
}`;

function scaled(value) {
	let n = Number(value) || 0, unit = 0;
	for (; n >= 999.5 && unit < UNITS.length - 1; unit++)
		n /= 1000;
	return `${unit == 0 ? Math.round(n) : n < 9.995 ? n.toFixed(2) : n < 99.95 ? n.toFixed(1) : Math.round(n)} ${UNITS[unit]}`;
}

function svg(name, attributes, children) {
	const node = document.createElementNS(SVG, name);
	for (const [ key, value ] of Object.entries(attributes))
		node.setAttribute(key, value);
	for (const child of children ?? [])
		node.appendChild(child);
	return node;
}

return baseclass.extend({
	/** "1.23 MB", in one piece */
	bytes: (n) => `${scaled(n)}B`.replace(' ', '\u00a0'),

	/** "820" or "2.10 k" */
	count: (n) => scaled(n).trim(),

	/** "2 h 04 min" */
	seconds(s) {
		const two = (n) => String(n).padStart(2, '0');
		return s >= 86400 ? `${Math.floor(s / 86400)} d ${two(Math.floor(s % 86400 / 3600))} h`
			: s >= 3600 ? `${Math.floor(s / 3600)} h ${two(Math.floor(s % 3600 / 60))} min`
			: s >= 60 ? `${Math.floor(s / 60)} min ${two(s % 60)} s` : `${s} s`;
	},

	/** A page: its heading, what it is for, and its parts. */
	page(title, text, parts) {
		return E('div', { 'class': 'cbi-map masqd' }, [
			E('style', {}, [ STYLE ]),
			E('h2', {}, [ title ]),
			E('div', { 'class': 'cbi-map-descr' }, [ text ]),
			...parts
		]);
	},

	/** A table of LuCI's, whose cells are texts or nodes. On a phone each cell has its heading beside it. */
	table(headings, rows, empty) {
		const cell = (content, n) => {
			const text = content instanceof Node ? null : String(content ?? '');
			// A number and its unit stay together.
			return E('td', { 'class': text?.length < 12 ? 'td masqd-short' : 'td', 'data-title': headings[n] || null }, [ text ?? content ]);
		};
		return E('table', { 'class': 'table' }, [
			E('tr', { 'class': 'tr table-titles' }, headings.map((text) => E('th', { 'class': 'th' }, [ text ]))),
			...rows.map((row, n) => E('tr', { 'class': `tr cbi-rowstyle-${n % 2 + 1}` }, row.map(cell))),
			...(rows.length ? [] : [ E('tr', { 'class': 'tr placeholder' }, [ E('td', { 'class': 'td' }, [ E('em', {}, [ empty ]) ]) ]) ])
		]);
	},

	/** An address with the name that it has, if any. */
	named(address, names) {
		// The longest label of DNS has 63 characters.
		const name = names.get(String(address).split(':')[0])?.slice(0, 63);
		return E('span', { 'title': name ? `${name} ${address}` : null }, name ? [ name, ' ', E('small', { 'class': 'masqd-mono' }, [ address ]) ] : [ E('span', { 'class': 'masqd-mono' }, [ address ]) ]);
	},

	/** A bar that is full at 1. */
	bar(fraction) {
		const percent = Math.max(0, Math.min(100, fraction * 100));
		return E('div', { 'class': 'masqd-bar' }, [ E('div', { 'style': `width:${percent.toFixed(1)}%` }) ]);
	},

	/** Bars side by side, of [ value, text ]. */
	times(values) {
		const top = Math.max(1, ...values.map(([ value ]) => value));
		return E('div', { 'class': 'masqd-times' }, values.map(([ value, text ]) =>
			E('div', { 'style': `height:${(value / top * 100).toFixed(1)}%`, 'title': text })));
	},

	/** A card with a heading. */
	card(title, children) {
		return E('div', { 'class': 'masqd-card' }, [ E('h4', {}, [ title ]), ...children ]);
	},

	/** A graph of the last values of some series, [ { color, label, values, text } ], with what they are now below it. */
	graph(series, most) {
		const top = Math.max(most ?? 0, 1, ...series.flatMap((s) => s.values));
		const lines = series.map((s) => {
			const values = s.values.length == 1 ? [ s.values[0], s.values[0] ] : s.values;
			const points = values.map((v, n) => `${(n / Math.max(1, s.length - 1) * 100).toFixed(2)},${(39 - v / top * 38).toFixed(2)}`);
			return svg('polyline', { points: points.join(' '), stroke: s.color });
		});
		return E('div', {}, [
			svg('svg', { 'class': 'masqd-graph', viewBox: '0 0 100 40', preserveAspectRatio: 'none', 'aria-hidden': 'true' }, lines),
			E('div', { 'class': 'masqd-legend' }, series.map((s) => E('span', {}, [
				E('span', { 'class': 'masqd-key', 'style': `background:${s.color}` }), s.label, ' ', E('strong', {}, [ s.text ])
			])))
		]);
	},

	/** A sentence about what went wrong with a call. */
	failure(error) {
		return E('div', { 'class': 'alert-message warning' }, [ error?.message ?? String(error) ]);
	}
});
