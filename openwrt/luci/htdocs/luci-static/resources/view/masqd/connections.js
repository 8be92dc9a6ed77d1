'use strict';
'require masqd.calls as calls';
'require masqd.parts as parts';
'require poll';
'require ui';
'require view';

const PAGE = 50;
const PROTOCOLS = /^(tcp|udp|icmp|sctp|dccp|udplite|gre|esp)$/;
const ENDPOINT = /^(\d+\.\d+\.\d+\.\d+)?(:\d+)?$/;

return view.extend({
	query: {},
	sort: 'recent',
	/* Where each page up to the one shown begins. */
	places: [ undefined ],

	fetch() {
		return calls.flows({ limit: PAGE, sort: this.sort, after: this.places.at(-1), ...this.query });
	},

	load() {
		return Promise.all([ this.fetch().catch((error) => ({ error, flows: [] })), calls.names() ]);
	},

	/* Words of a search: a protocol, an endpoint or a port on any side, a state, a device's name. */
	understand(text, names) {
		const query = {};
		for (const word of text.trim().toLowerCase().split(/\s+/).filter(Boolean)) {
			const host = [ ...names ].find(([ , name ]) => name.toLowerCase().includes(word))?.[0];
			if (PROTOCOLS.test(word))
				query.protocol = word;
			else if (/^\d{1,5}$/.test(word))
				query.any = `:${word}`;
			else if (ENDPOINT.test(word))
				query.any = word;
			else if (host != null)
				query.host = host;
			else
				query.state = word;
		}
		return query;
	},

	end(f) {
		return calls.flush({ what: 'session', id: f.id, protocol: f.protocol, internal: f.internal, peer: f.peer }).then(() => this.refresh(), (error) => {
			ui.addNotification(null, E('p', {}, [ error.message ]), 'error');
		});
	},

	row(f, names) {
		return [
			f.protocol, parts.named(f.internal, names), E('span', { 'class': 'masqd-mono' }, [ f.external ]), E('span', { 'class': 'masqd-mono' }, [ f.peer ]),
			E('span', {}, [ f.state, ' ', E('small', {}, [ _('%s left').format(parts.seconds(f.left)) ]) ]),
			parts.bytes(f.bytesOut), parts.bytes(f.bytesIn),
			L.hasViewPermission() ? E('div', {}, [ E('button', {
				'class': 'btn cbi-button-remove', 'title': _('End this session'), 'click': ui.createHandlerFn(this, () => this.end(f))
			}, [ _('End') ]) ]) : ''
		];
	},

	show([ { flows, matched, total, next, error }, names ]) {
		this.names = names;
		this.next = next;
		const page = this.places.length;
		this.body.replaceChildren(...(error != null ? [ parts.failure(error) ] : [
			parts.table([ _('Protocol'), _('Device'), _('Outside'), _('Peer'), _('State'), _('Sent'), _('Received'), '' ],
				flows.map((f) => this.row(f, names)), _('No session matches.'))
		]));
		this.count.textContent = error != null ? '' : matched < total ? _('%d of %d sessions match, page %d').format(matched, total, page) : _('%d sessions, page %d').format(total, page);
		this.back.disabled = page == 1;
		this.forth.disabled = next == null;
	},

	refresh() {
		const asked = this.places;
		return this.fetch().catch((error) => ({ error, flows: [] })).then((found) => {
			// Of another page than is wanted by now.
			if (asked === this.places)
				this.show([ found, this.names ]);
		});
	},

	go(places) {
		this.places = places;
		return this.refresh();
	},

	render(found) {
		const search = E('input', {
			'type': 'text', 'placeholder': _('Device, address, :port, protocol or state'), 'aria-label': _('Search'),
			'keydown': (event) => {
				if (event.key == 'Enter')
					find();
			}
		});
		const find = () => {
			this.query = this.understand(search.value, this.names);
			return this.go([ undefined ]);
		};
		const order = E('select', { 'aria-label': _('Order'), 'change': () => {
			this.sort = order.value;
			this.go([ undefined ]);
		} }, [ [ 'recent', _('Latest first') ], [ 'bytes', _('Most bytes first') ], [ 'age', _('Idle longest first') ] ]
			.map(([ value, text ]) => E('option', { value }, [ text ])));
		this.back = E('button', { 'class': 'btn', 'click': () => this.go(this.places.slice(0, -1)) }, [ _('Back') ]);
		this.forth = E('button', { 'class': 'btn', 'click': () => this.go([ ...this.places, this.next ]) }, [ _('Next') ]);
		this.count = E('span', { 'aria-live': 'polite' });
		this.body = E('div', {});
		this.show(found);
		poll.add(() => this.refresh(), 5);
		return parts.page(_('Connections'), _('Every session of the table: the device, the port by which the Internet sees it, and the peer.'), [
			E('div', { 'class': 'masqd-tools' }, [ search, E('button', { 'class': 'btn cbi-button-action', 'click': find }, [ _('Search') ]), order ]),
			this.body,
			E('div', { 'class': 'masqd-tools' }, [ this.back, this.forth, this.count ])
		]);
	},

	handleSaveApply: null,
	handleSave: null,
	handleReset: null
});
