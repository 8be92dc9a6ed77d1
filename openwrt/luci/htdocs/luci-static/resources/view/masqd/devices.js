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
			parts.named(h.address, names), h.port, E('div', {}, [ `${h.sessions} / ${h.limit} `, E('small', {}, [ LIMITED[h.limitedBy] ?? h.limitedBy ]) ]),
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

	refresh() {
		return this.load().then((found) => this.body.replaceChildren(...this.content(found)));
	},

	render(found) {
		this.body = E('div', {}, this.content(found));
		poll.add(() => this.refresh(), 5);
		return parts.page(_('Devices'), _('Devices that have sessions now: what they use, what they may use, and whether peers reach the ports that they open.'), [ this.body ]);
	},

	handleSaveApply: null,
	handleSave: null,
	handleReset: null
});
