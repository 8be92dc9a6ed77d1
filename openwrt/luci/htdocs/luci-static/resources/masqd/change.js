'use strict';
'require baseclass';
'require uci';
'require ui';

// A change of /etc/config/masqd: shown as what `uci` would be told, and applied only then.

/* The section that is meant by { type, options }: there is one of some types; of others the one with the same key. */
function existing({ type, options }) {
	const key = { host: 'ip', lan: 'device', pool: 'external', redirect: 'name' }[type];
	const same = (s) => String(s[key] ?? '') === String(options[key] ?? '');
	return uci.sections('masqd', type).find((s) => key == null || same(s)) ??
		// A LAN that is written by netifd's name of it; there is only the one.
		(type == 'lan' && uci.sections('masqd', 'lan').length == 1 ? uci.sections('masqd', 'lan')[0] : undefined);
}

function quote(value) {
	return `'${String(value).replace(/'/g, "'\\''")}'`;
}

/* What of the options is to be written: a device that is found by its interface stays unwritten. */
function wanted(section, found) {
	const options = { ...section.options };
	if (section.type == 'lan' && found?.interface)
		delete options.device;
	return options;
}

return baseclass.extend({
	/** The commands, a line each. */
	lines(section) {
		const found = existing(section);
		const place = found == null ? `masqd.@${section.type}[-1]`
			: found['.anonymous'] ? `masqd.@${section.type}[${uci.sections('masqd', section.type).findIndex((s) => s['.name'] == found['.name'])}]`
			: `masqd.${found['.name']}`;
		const lines = found == null ? [ `uci add masqd ${section.type}` ] : [];
		for (const [ name, value ] of Object.entries(wanted(section, found))) {
			if (value == null)
				lines.push(`uci delete ${place}.${name}`);
			else if (Array.isArray(value))
				lines.push(...(found?.[name] != null ? [ `uci delete ${place}.${name}` ] : []),
					...value.map((one) => `uci add_list ${place}.${name}=${quote(one)}`));
			else
				lines.push(`uci set ${place}.${name}=${quote(value)}`);
		}
		return [ ...lines, 'uci commit masqd' ];
	},

	/** Writes and applies it. */
	apply(section) {
		const found = existing(section);
		const name = found?.['.name'] ?? uci.add('masqd', section.type);
		for (const [ option, value ] of Object.entries(wanted(section, found)))
			value == null ? uci.unset('masqd', name, option) : uci.set('masqd', name, option, value);
		return uci.save().then(() => uci.apply());
	},

	/** Shows the change and asks; resolves to whether it was made. */
	ask(section, title, text) {
		return uci.load('masqd').then(() => new Promise((done) => {
			const end = (made) => {
				ui.hideModal();
				done(made);
			};
			const go = ui.createHandlerFn(this, () => this.apply(section).then(() => end(true), (error) => {
				ui.addNotification(null, E('p', {}, [ error?.message ?? String(error) ]), 'error');
				end(false);
			}));
			// A title that is no list would be HTML, and this one may have a name that DHCP learned.
			ui.showModal([ title ], [
				E('p', {}, [ text ]),
				E('code', { 'class': 'masqd-uci', 'style': 'white-space:pre-wrap;display:block;margin:1em 0' }, [ this.lines(section).join('\n') ]),
				E('div', { 'class': 'right' }, [
					E('button', { 'class': 'btn', 'click': () => end(false) }, [ _('Cancel') ]), ' ',
					E('button', { 'class': 'btn cbi-button-action important', 'disabled': L.hasViewPermission() ? null : true, 'click': go }, [ _('Apply') ])
				])
			]);
		}));
	}
});
