'use strict';
'require masqd.calls as calls';
'require masqd.change as change';
'require masqd.parts as parts';
'require masqd.remedy as remedy';
'require poll';
'require ui';
'require view';

return view.extend({
	load() {
		return Promise.all([ calls.drops().catch((error) => ({ error, drops: [] })), calls.names() ]);
	},

	verdict(w) {
		switch (w.verdict) {
		case 'dropped':
			return [ 'amiss', `${_('Dropped: %s.').format(w.reason)} ${w.text ?? ''} ${w.remedy ?? ''}${w.answered ? ` ${_('The sender is told by an ICMP error.')}` : ''}` ];
		case 'forwarded':
			return [ '', _('Forwarded as %s to %s.').format(w.as.source, w.as.destination) ];
		case 'waits':
			return [ '', _('Waits for the answer of the neighbour, and is forwarded with it.') ];
		default:
			return [ 'off', _('Left to the kernel: it is the router’s own business.') ];
		}
	},

	/* Every decision in order, what comes of them, and the lines that would change it. */
	explanation(w) {
		const [ mood, text ] = this.verdict(w);
		const section = remedy.remedySection(w);
		return [
			E('h3', {}, [ `${w.packet.protocol} ${w.packet.source} → ${w.packet.destination}` ]),
			E('ol', { 'class': 'masqd-steps' }, w.steps.map((step) => E('li', {}, [ E('strong', {}, [ step.what ]), ': ', step.text ]))),
			E('div', { 'class': `masqd-state ${mood}` }, [ text ]),
			...(section == null ? [] : [
				E('p', {}, [ _('These lines in /etc/config/masqd would let it pass:') ]),
				E('code', { 'class': 'masqd-uci' }, [ remedy.remedyLines(section).join('\n') ]),
				E('button', {
					'class': 'btn cbi-button-action', 'click': ui.createHandlerFn(this, () => change.ask(section, _('Change the configuration'), `${w.text ?? ''}`))
				}, [ _('Apply…') ])
			])
		];
	},

	ask(packet) {
		return calls.why(packet).then((w) => this.explanation(w), (error) => [ parts.failure(error) ]).then((nodes) => {
			this.answer.replaceChildren(...nodes);
			this.answer.scrollIntoView({ block: 'nearest' });
		});
	},

	list([ { drops, error }, names ]) {
		if (error != null)
			return [ parts.failure(error) ];
		return [ parts.table([ _('Reason'), _('Packet'), _('By'), _('Ago'), _('Times'), '' ], drops.slice(0, 30).map((d) => [
			E('strong', {}, [ d.reason ]),
			E('span', {}, [ `${d.protocol} `, parts.named(d.source, names), ' → ', parts.named(d.destination, names) ]),
			d.port, parts.seconds(d.ago), String(d.count),
			E('div', {}, [ E('button', { 'class': 'btn', 'click': ui.createHandlerFn(this, () => this.ask({
				protocol: d.protocol.replace(/^icmp-.*/, 'icmp'), source: d.source, destination: d.destination, direction: d.direction
			})) }, [ _('Why?') ]) ])
		]), _('Nothing was dropped lately.')) ];
	},

	render(found) {
		const field = (label, node) => {
			node.setAttribute('aria-label', label);
			return node;
		};
		const protocol = field(_('Protocol'), E('select', {}, [ 'udp', 'tcp', 'icmp' ].map((name) => E('option', { 'value': name }, [ name ]))));
		const source = field(_('From'), E('input', { 'type': 'text', 'placeholder': _('From: 192.168.1.10:5000') }));
		const destination = field(_('To'), E('input', { 'type': 'text', 'placeholder': _('To: 203.0.113.9:53') }));
		const direction = field(_('Direction'), E('select', {}, [ [ '', _('either way') ], [ 'out', _('from inside') ], [ 'in', _('from outside') ] ]
			.map(([ value, text ]) => E('option', { value }, [ text ]))));
		const ask = () => this.ask({
			protocol: protocol.value, source: source.value.trim(), destination: destination.value.trim(), direction: direction.value || undefined
		});
		const rows = E('div', {}, this.list(found));
		this.answer = E('div', { 'aria-live': 'polite' });
		poll.add(() => this.load().then((again) => rows.replaceChildren(...this.list(again))), 5);
		return parts.page(_('Why'), _('What would become of a packet, decided by the code that decides about real ones, without sending it. Type one, or pick one that was dropped.'), [
			E('div', { 'class': 'masqd-tools' }, [ protocol, source, destination, direction,
				E('button', { 'class': 'btn cbi-button-action', 'click': ui.createHandlerFn(this, ask) }, [ _('Explain') ]) ]),
			this.answer,
			E('h3', {}, [ _('Dropped lately') ]),
			rows
		]);
	},

	handleSaveApply: null,
	handleSave: null,
	handleReset: null
});
