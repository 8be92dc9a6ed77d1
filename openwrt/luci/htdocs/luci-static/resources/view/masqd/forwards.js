'use strict';
'require masqd.calls as calls';
'require masqd.parts as parts';
'require poll';
'require view';

const WHOSE = {
	masqd: _('masqd: written in its settings'),
	firewall4: _('firewall4'),
	pcp: _('PCP: the device asked masqd for it'),
	upnp: _('UPnP: the device asked miniupnpd for it')
};

return view.extend({
	load() {
		return Promise.all([ calls.forwards().catch((error) => ({ error, forwards: [] })), calls.names() ]);
	},

	content([ { forwards, warning, error }, names ]) {
		return [
			...(error != null || warning ? [ parts.failure(error ?? warning) ] : []),
			parts.table([ _('Whose'), _('Name'), _('Protocol'), _('From outside'), _('To'), _('Only from') ], forwards.map((f) => [
				WHOSE[f.by] ?? f.by, f.name ?? '', f.protocol, E('span', { 'class': 'masqd-mono' }, [ f.external ]), parts.named(f.internal, names), f.peer || _('anyone')
			]), _('There is none.')),
			...(forwards.some((f) => f.by == 'firewall4') ? [ E('p', {}, [
				_('Forwards of firewall4 work: with the kernel driver by the kernel, else masqd takes them over, but for those that ask for more than device, protocol and port. Overview names these: write them in Settings as Redirect.') ]) ] : []),
			E('p', {}, [ _('masqd answers PCP and NAT-PMP itself (option pcp). It does not speak UPnP IGD: miniupnpd works beside it, and its forwards reach the devices.') ])
		];
	},

	render(found) {
		const body = E('div', {}, this.content(found));
		poll.add(() => this.load().then((again) => body.replaceChildren(...this.content(again))), 5);
		return parts.page(_('Forwards'), _('Every way in from outside, and whose each is.'), [ body ]);
	},

	handleSaveApply: null,
	handleSave: null,
	handleReset: null
});
