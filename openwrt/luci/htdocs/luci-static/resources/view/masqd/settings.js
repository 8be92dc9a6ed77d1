'use strict';
'require form';
'require masqd.options as options';
'require view';

// The form is made of the daemon's own table of options (masqd/options.js comes from it).

const TITLES = {
	masqd: _('General'), wan: _('WAN'), lan: _('LANs'), redirect: _('Redirects'), host: _('Devices of their own'), static: _('Static NAT'),
	pool: _('Pools'), exempt: _('Untranslated destinations'), timeouts: _('Timeouts')
};
/* In the order of an owner's interest; what is not named here stands at the end. */
const ORDER = [ 'masqd', 'wan', 'lan', 'redirect', 'host', 'static', 'pool', 'exempt', 'timeouts' ];

const KINDS = {
	'ipv4': 'ip4addr("nomask")', 'subnet': 'or(cidr4,ip4addr)', 'port or port range': 'portrange'
};

/* The form's field of an option. */
function field(section, name, o) {
	// A truth value without one of its own has three.
	const own = o.type == 'bool' && o.default == null;
	const choices = own ? [ '1', '0' ] : o.list || o.type == 'bool' ? null : /^[\w-]+(\|[\w-]+)+$/.test(o.type) ? o.type.split('|') : null;
	const kind = o.list ? form.DynamicList : choices ? form.ListValue : o.type == 'bool' ? form.Flag : form.Value;
	const made = section.option(kind, name, name, _(o.help) + (o.unit ? ` (${o.unit})` : ''));
	const range = /^(auto or )?(\d+)\.\.(\d+)$/.exec(o.type);
	if (choices) {
		if (o.default == null)
			made.value('', _('as the daemon’s'));
		for (const choice of choices)
			made.value(choice, own ? (choice == '1' ? _('on') : _('off')) : choice);
	}
	if (kind == form.Flag) {
		made.enabled = '1';
		made.disabled = '0';
	}
	if (o.default != null && !o.list) {
		made.default = o.default;
		made.placeholder = o.default;
	}
	if (o.list && o.default.length)
		made.placeholder = o.default[0];
	if (range)
		made.datatype = range[1] ? `or("auto",range(${range[2]},${range[3]}))` : `range(${range[2]},${range[3]})`;
	else if (KINDS[o.type])
		made.datatype = KINDS[o.type];
	made.rmempty = !o.required;
	made.optional = !o.required;
	return made;
}

return view.extend({
	render() {
		const map = new form.Map('masqd', _('Settings'), _('What /etc/config/masqd has. A mistake never stops masqd: it goes on with what it had, and the system log says what is wrong.'));
		const types = [ ...ORDER, ...Object.keys(options.sections).filter((type) => !ORDER.includes(type)) ];
		for (const type of types) {
			const spec = options.sections[type];
			if (spec == null)
				continue;
			const section = map.section(form.TypedSection, type, TITLES[type] ?? type, _(spec.help));
			section.anonymous = true;
			section.addremove = type != 'masqd' && type != 'wan';
			for (const [ name, o ] of Object.entries(spec.options))
				field(section, name, o);
		}
		return map.render();
	}
});
