'use strict';
'require masqd.calls as calls';
'require masqd.change as change';
'require masqd.parts as parts';
'require poll';
'require ui';
'require view';

const OPEN = 'endpoint-independent';
const CLOSED = 'address-and-port-dependent';
const LIMITED = { 'max_sessions': _('own limit'), 'fair share': _('fair share'), 'table': _('whole table') };

return view.extend({
	load() {
		return Promise.all([ calls.hosts().catch((error) => ({ error, hosts: [] })), calls.names() ]);
	},

	/* The switch: a section of the host's own says who may answer it. */
	toggle(host, name) {
		const open = host.filtering == OPEN;
		const section = { type: 'host', options: { ip: host.address, filtering: open ? CLOSED : OPEN } };
		return change.ask(section, open ? _('Close NAT for %s').format(name) : _('Open NAT for %s').format(name), open
			? _('Only peers that the device has spoken to reach it again.')
			: _('Peers that the device has not spoken to reach it by the ports that it opens: what game consoles call open. Nothing is let in to other ports.')
		).then((made) => made ? this.refresh() : null);
	},

	row(h, names) {
		const name = names.get(h.address) ?? h.address;
		return [
			parts.named(h.address, names), E('span', { 'style': 'white-space:nowrap' }, [ h.port ]), E('div', {}, [ `${h.sessions} / ${h.limit} `, E('small', {}, [ LIMITED[h.limitedBy] ?? h.limitedBy ]) ]),
			parts.bytes(h.bytesOut), parts.bytes(h.bytesIn),
			h.refused ? E('strong', {}, [ String(h.refused) ]) : '0',
			E('label', {}, [ E('input', {
				'type': 'checkbox', 'checked': h.filtering == OPEN ? true : null, 'disabled': L.hasViewPermission() ? null : true,
				'aria-label': _('Open NAT for %s').format(name),
				'click': (event) => {
					event.preventDefault();
					this.toggle(h, name);
				}
			}), ' ', h.filtering == OPEN ? _('open') : _('closed') ])
		];
	},

	content([ { hosts, error }, names ]) {
		if (error != null)
			return [ parts.failure(error) ];
		return [ parts.table(
			[ _('Device'), _('Port'), _('Sessions / limit'), _('Sent'), _('Received'), _('Refused'), _('Open NAT') ],
			hosts.map((h) => this.row(h, names)), _('No device has sessions.')) ];
	},

	/* What each device has moved by hour or day; the rows have the present hour or day first. */
	moved({ hosts, present, error }, names, by) {
		if (error != null)
			return [ parts.failure(error) ];
		const step = by == 'day' ? 864e5 : 36e5;
		const time = (n) => new Date((present - n) * step).toISOString().replace('T', ' ').slice(0, by == 'day' ? 10 : 16);
		const sum = (bytes, way) => bytes.reduce((all, one) => all + one[way], 0);
		return [ parts.table(
			by == 'day' ? [ _('Device'), _('Sent today'), _('Received today'), _('Sent in 7 days'), _('Received in 7 days'), _('By day') ]
				: [ _('Device'), _('Sent this hour'), _('Received this hour'), _('Sent in 24 hours'), _('Received in 24 hours'), _('By hour') ],
			hosts.map(({ address, bytes }) => [
				address == 'others' ? E('em', {}, [ _('all others') ]) : parts.named(address, names),
				parts.bytes(bytes[0][0]), parts.bytes(bytes[0][1]), parts.bytes(sum(bytes, 0)), parts.bytes(sum(bytes, 1)),
				parts.times(bytes.map(([ out, back ], n) => [ out + back, `${time(n)}: ${parts.bytes(out + back)}` ]).reverse())
			]), _('Nothing has been moved yet.')) ];
	},

	/* Asked for less often than the rest: the daemon looks through all sessions for it. */
	count() {
		const by = this.by.value;
		return Promise.all([ calls.hosts({ by }).catch((error) => ({ error })), calls.names() ])
			.then(([ found, names ]) => by == this.by.value ? this.accounts.replaceChildren(...this.moved(found, names, by)) : null);
	},

	refresh() {
		return this.load().then((found) => this.body.replaceChildren(...this.content(found)));
	},

	render(found) {
		this.body = E('div', {}, this.content(found));
		this.by = E('select', { 'aria-label': _('By'), 'change': () => this.count() }, [
			E('option', { 'value': 'day' }, [ _('by day') ]), E('option', { 'value': 'hour' }, [ _('by hour') ])
		]);
		this.accounts = E('div');
		this.count();
		poll.add(() => this.refresh(), 5);
		poll.add(() => this.count(), 60);
		return parts.page(_('Devices'), _('Devices that have sessions now: what they use, what they may use, and whether peers reach the ports that they open.'), [
			this.body,
			E('h3', {}, [ _('Traffic') ]),
			E('p', {}, [ _('Bytes of IPv4 between devices and the Internet, those of ended connections too, since the router was started.') ]),
			E('div', { 'class': 'masqd-tools' }, [ this.by ]),
			this.accounts
		]);
	},

	handleSaveApply: null,
	handleSave: null,
	handleReset: null
});
