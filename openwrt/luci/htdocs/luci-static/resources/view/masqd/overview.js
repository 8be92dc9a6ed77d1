'use strict';
'require masqd.calls as calls';
'require masqd.change as change';
'require masqd.options as options';
'require masqd.parts as parts';
'require masqd.remedy as remedy';
'require poll';
'require uci';
'require ui';
'require view';

const REFRESH = 3;
/* Values of a graph: three minutes. */
const KEPT = 60;
const TOP = 6;
const PORTS = options.sections.masqd.options.ports.default;

/* A range of ports without one. */
function without(ranges, port) {
	return ranges.flatMap((range) => {
		const [ first, last ] = range.split('-').map(Number);
		const end = last || first;
		if (port < first || port > end)
			return [ range ];
		return [ [ first, port - 1 ], [ port + 1, end ] ].filter(([ a, b ]) => a <= b).map(([ a, b ]) => a == b ? `${a}` : `${a}-${b}`);
	});
}

return view.extend({
	history: { fill: [], out: [], back: [], dropped: [] },

	load() {
		return Promise.all([ this.fetch(), uci.load('masqd') ]).then(([ found ]) => found);
	},

	fetch() {
		return Promise.all([
			calls.status().catch((error) => ({ error })),
			calls.hosts({ limit: TOP }).catch(() => ({ hosts: [] })),
			this.names != null && this.age++ < 20 ? this.names : calls.names()
		]).then((found) => {
			if (this.names !== found[2])
				this.age = 0;
			this.names = found[2];
			return found;
		});
	},

	sentence(s) {
		const wan = s.ports.find((p) => p.role == 'wan');
		if (!wan?.up || !wan.address)
			return [ 'amiss', _('masqd runs, but the WAN %s is not up: nothing can be translated until it is.').format(wan?.name ?? '') ];
		const text = _('masqd translates for %d devices behind %s: %d of %d sessions, %s packets per second.').format(
			s.hosts, wan.address, s.sessions.used, s.sessions.total, parts.count(s.rates.out + s.rates.in));
		return s.warnings.length == 0 ? [ '', `${text} ${_('Nothing is amiss.')}` ] : [ 'amiss', `${text} ${_('See the warnings below.')}` ];
	},

	/* What to write to be rid of a warning, where that is a matter of the configuration. */
	remedyOf(warning) {
		const own = /the router itself listens on port (\d+)/.exec(warning);
		if (own != null)
			return { type: 'masqd', options: { ports: without(L.toArray(uci.sections('masqd', 'masqd')[0]?.ports ?? PORTS), Number(own[1])) } };
		return null;
	},

	warning(text) {
		const own = this.remedyOf(text);
		return E('div', { 'class': 'alert-message warning masqd-warning' }, [
			E('span', {}, [ text ]),
			...(own == null ? [] : [ E('button', {
				'class': 'btn cbi-button-action',
				'click': () => change.ask(own, _('Change the configuration'), text)
			}, [ _('Remedy…') ]) ])
		]);
	},

	/* The newest drop of a reason, asked about again: with what would let it pass, if anything would. */
	explain(reason) {
		return calls.drops().then(({ drops }) => {
			const d = drops.find((one) => one.reason == reason);
			if (d == null)
				return null;
			return calls.why({ protocol: d.protocol.replace(/^icmp-.*/, 'icmp'), source: d.source, destination: d.destination, direction: d.direction })
				.then((w) => w.reason == reason ? remedy.remedySection(w) : null, () => null);
		}).then((section) => section != null
			? change.ask(section, _('Change the configuration'), _('This would let packets like the last one pass:'))
			: ui.addNotification(null, E('p', {}, [ _('No setting of masqd changes that.') ]), 'info'));
	},

	dropTable(s) {
		const rows = [ ...s.drops ].sort((a, b) => b.count - a.count).slice(0, 8).map((d) => [
			E('strong', {}, [ d.reason ]), parts.count(d.count), `${d.text} ${d.remedy}`,
			E('div', {}, [ E('button', { 'class': 'btn', 'click': ui.createHandlerFn(this, () => this.explain(d.reason)) }, [ _('Remedy…') ]) ])
		]);
		return parts.table([ _('Reason'), _('Packets'), _('What it means'), '' ], rows, _('Nothing was dropped.'));
	},

	remember(s) {
		const push = (list, value) => {
			list.push(value);
			if (list.length > KEPT)
				list.shift();
		};
		push(this.history.fill, s.sessions.used);
		push(this.history.out, s.rates.out);
		push(this.history.back, s.rates.in);
		push(this.history.dropped, s.rates.dropped);
	},

	content([ s, { hosts }, names ]) {
		if (s.error != null)
			return [ E('div', { 'class': 'masqd-state off' }, [ _('masqd does not answer: %s. Switch it on in Settings; until then the router translates as ever.').format(s.error.message ?? s.error) ]) ];
		this.remember(s);
		const [ mood, text ] = this.sentence(s);
		const { fill, out, back, dropped } = this.history;
		const packets = s.forwarded.out + s.forwarded.in;
		const share = packets == 0 ? 0 : (s.offload.packetsOut + s.offload.packetsIn) / packets;
		const most = Math.max(1, ...hosts.map((h) => h.sessions));
		return [
			E('div', { 'class': `masqd-state ${mood}` }, [ text ]),
			...s.warnings.map((warning) => this.warning(warning)),
			E('div', { 'class': 'masqd-cards' }, [
				parts.card(_('Session table'), [
					E('div', { 'class': 'masqd-figure' }, [ `${Math.round(s.sessions.used / s.sessions.total * 100)} %` ]),
					parts.bar(s.sessions.used / s.sessions.total),
					parts.graph([ { color: '#3b82c4', label: _('sessions'), values: fill, length: KEPT, text: `${s.sessions.used}` } ], s.sessions.total)
				]),
				parts.card(_('Packets per second'), [
					parts.graph([
						{ color: '#2f9e44', label: _('from inside'), values: out, length: KEPT, text: parts.count(s.rates.out) },
						{ color: '#3b82c4', label: _('from outside'), values: back, length: KEPT, text: parts.count(s.rates.in) },
						{ color: '#e03131', label: _('dropped'), values: dropped, length: KEPT, text: parts.count(s.rates.dropped) }
					])
				]),
				parts.card(_('Offload'), [
					E('div', { 'class': 'masqd-figure' }, [ s.offload.active ? `${(share * 100).toFixed(1)} %` : _('none') ]),
					E('div', {}, [ s.offload.active ? _('of all packets went by the kernel (%s), %d sessions now.').format(s.offload.detail, s.offload.flows) : s.offload.detail ]),
					...(s.offload.active ? [ parts.bar(share) ] : [])
				]),
				parts.card(_('Devices with most sessions'), hosts.length ? hosts.map((h) => E('div', { 'class': 'masqd-host' }, [
					parts.named(h.address, names), E('span', {}, [ `${h.sessions}` ]), parts.bar(h.sessions / most)
				])) : [ E('em', {}, [ _('None has sessions.') ]) ])
			]),
			E('h3', {}, [ _('Dropped packets') ]),
			this.dropTable(s),
			E('p', {}, [ E('small', {}, [ _('masqd %s, up %s, %d kB of memory.').format(s.version, parts.seconds(s.uptime), s.rssKb) ]) ])
		];
	},

	/* What the line is, asked for by the owner: it takes seconds, and by STUN only with a server that is typed. */
	line() {
		const server = E('input', { 'type': 'text', 'placeholder': _('STUN server, if you like'), 'aria-label': _('STUN server') });
		const answer = E('div', { 'aria-live': 'polite' });
		const ask = () => calls.natType({ server: server.value.trim() || undefined }).then((f) => answer.replaceChildren(
			E('div', { 'class': `masqd-state ${f.type == 'open' ? '' : 'amiss'}` }, [ _('NAT type: %s').format(f.type) ]),
			E('ul', {}, [ ...f.line, ...f.change ].map((text) => E('li', {}, [ text ])))
		), (error) => answer.replaceChildren(parts.failure(error)));
		return [
			E('h3', {}, [ _('The line') ]),
			E('div', { 'class': 'masqd-tools' }, [ server, E('button', {
				'class': 'btn cbi-button-action', 'disabled': L.hasViewPermission() ? null : true, 'click': ui.createHandlerFn(this, ask)
			}, [ _('What is it?') ]) ]),
			answer
		];
	},

	render(found) {
		const body = E('div', {}, this.content(found));
		poll.add(() => this.fetch().then((again) => {
			body.replaceChildren(...this.content(again));
		}), REFRESH);
		return parts.page(_('Masquerading'), _('Who uses the line, and what was kept off it.'), [ body, ...this.line() ]);
	},

	handleSaveApply: null,
	handleSave: null,
	handleReset: null
});
