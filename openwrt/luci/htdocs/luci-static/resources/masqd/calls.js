'use strict';
'require baseclass';
'require rpc';

// The ubus object of masqd, a function each. Every one gives what was answered; an answer of masqd's that is an error is
// thrown in its words.

function told(reply) {
	if (reply?.error != null)
		throw new Error(reply.error);
	return reply;
}

function declare(method, params) {
	const call = rpc.declare({ object: 'masqd', method, params: params ?? [] });
	return (values) => call(...(params ?? []).map((name) => values?.[name])).then(told);
}

const hints = rpc.declare({ object: 'luci-rpc', method: 'getHostHints', expect: { '': {} } });

return baseclass.extend({
	status: declare('status'),
	flows: declare('flows', [ 'limit', 'sort', 'after', 'host', 'peer', 'protocol', 'state', 'any' ]),
	hosts: declare('hosts', [ 'limit', 'by' ]),
	drops: declare('drops'),
	why: declare('why', [ 'protocol', 'source', 'destination', 'direction' ]),
	forwards: declare('forwards'),
	flush: declare('flush', [ 'what', 'host', 'id', 'protocol', 'internal', 'peer' ]),
	natType: declare('nat_type', [ 'server' ]),
	selftest: declare('selftest'),

	/** Names of hosts by address, as DHCP and the router's other files have them: anything that a host has sent. */
	names() {
		return hints().then((found) => {
			const names = new Map();
			for (const hint of Object.values(found ?? {}))
				for (const address of hint.ipaddrs ?? [])
					if (hint.name)
						names.set(address, String(hint.name));
			return names;
		}, () => new Map());
	}
});
