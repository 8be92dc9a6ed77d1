// A stand-in for LuCI's client side, for tests: the classes that masqd's pages use, behaving as LuCI's documented API
// does and as its real scripts were seen to. What matters most: E() takes a text for HTML unless it stands in a list.
//
// Not here: themes, menus, translations, the login, LuCI's check of values, dependencies between options.

"use strict";

(() => {
	const loaded = new Map();

	/** LuCI's format of texts, as far as the pages use it; %s is not escaped. */
	String.prototype.format = function (...values) {
		let n = 0;
		return this.replace(/%([sd%])/g, (_, kind) => (kind === "%" ? "%" : kind === "d" ? String(Math.trunc(Number(values[n++]))) : String(values[n++])));
	};

	const dom = {
		elem: (value) => value instanceof Node,
		append(node, children) {
			if (Array.isArray(children)) {
				for (const child of children) {
					if (this.elem(child)) node.appendChild(child);
					else if (child !== null && child !== undefined) node.appendChild(document.createTextNode(`${child}`));
				}
			} else if (typeof children === "function") this.append(node, children(node));
			else if (this.elem(children)) node.appendChild(children);
			else if (children !== null && children !== undefined) node.innerHTML = `${children}`;
			return node.lastChild;
		},
		content(node, children) {
			node.replaceChildren();
			return this.append(node, children);
		},
		attr(node, attributes) {
			for (const [name, value] of Object.entries(attributes ?? {})) {
				if (value === null || value === undefined) continue;
				if (typeof value === "function") node.addEventListener(name, value);
				else node.setAttribute(name, typeof value === "object" ? JSON.stringify(value) : value);
			}
		},
		create(name, attributes, children) {
			if (this.elem(name)) return name;
			const given = attributes instanceof Object && !Array.isArray(attributes) && !this.elem(attributes);
			const node = document.createElement(name);
			this.attr(node, given ? attributes : {});
			this.append(node, given ? children : attributes);
			return node;
		},
	};
	window.E = (...words) => dom.create(...words);
	window._ = (text) => text;

	/** A class: members over those of what it extends. */
	const extend = (base) => (members) => {
		const made = Object.assign(Object.create(base), members);
		made.extend = extend(made);
		return made;
	};
	const baseclass = { extend: extend({}) };

	const poll = {
		queue: [],
		add(run, seconds) {
			this.queue.push(run);
			const turn = () => Promise.resolve(run()).finally(() => setTimeout(turn, seconds * 1000));
			setTimeout(turn, seconds * 1000);
		},
	};

	let batch = null;
	let serial = 0;
	/** Calls of one turn go in one request. */
	function post(call) {
		return new Promise((resolve, reject) => {
			if (batch === null) {
				batch = [];
				setTimeout(() => {
					const sent = batch;
					batch = null;
					fetch(`${L.env.scriptname}/admin/ubus`, { method: "POST", body: JSON.stringify(sent.map((one) => one.frame)) })
						.then((answer) => answer.json())
						.then((replies) => {
							sent.forEach((one, n) => {
								one.resolve(replies[n]);
							});
						})
						.catch((error) => {
							for (const one of sent) one.reject(error);
						});
				}, 0);
			}
			batch.push({ frame: { jsonrpc: "2.0", id: ++serial, method: "call", params: [L.env.sessionid, ...call] }, resolve, reject });
		});
	}

	const rpc = {
		declare:
			({ object, method, params = [], expect, reject = false }) =>
			async (...values) => {
				const given = {};
				params.forEach((name, n) => {
					given[name] = values[n];
				});
				const reply = await post([object, method, given]);
				if (reply.error) throw new Error(`RPC call to ${object}/${method} failed with error ${reply.error.code}: ${reply.error.message}`);
				if (reject && reply.result[0] !== 0) throw new Error(`RPC call to ${object}/${method} failed with ubus code ${reply.result[0]}`);
				let found = reply.result.length > 1 ? reply.result[1] : reply.result[0];
				const [key] = Object.keys(expect ?? {});
				if (key !== undefined) {
					if (key !== "" && found !== null) found = found?.[key];
					if (found === undefined || Object.prototype.toString.call(found) !== Object.prototype.toString.call(expect[key])) found = expect[key];
				}
				return found;
			},
	};

	const ubus = (method, params, reject = true) => rpc.declare({ object: "uci", method, params, reject });
	const uci = {
		values: {},
		/** What was done and is not sent yet. */
		todo: [],
		added: 0,
		async load(config) {
			if (this.values[config] !== undefined) return [];
			this.values[config] = (await ubus("get", ["config"])(config)).values;
			return [config];
		},
		sections(config, type) {
			return Object.values(this.values[config] ?? {}).filter((s) => type === undefined || s[".type"] === type);
		},
		get: (config, section, option) => (option === undefined ? uci.values[config]?.[section] : uci.values[config]?.[section]?.[option]) ?? null,
		add(config, type, name) {
			const section = name ?? `new${++this.added}`;
			this.values[config][section] = { ".name": section, ".type": type, ".anonymous": name === undefined };
			this.todo.push({ method: "add", config, section, type });
			return section;
		},
		set(config, section, option, value) {
			this.values[config][section][option] = value;
			this.todo.push({ method: "set", config, section, values: { [option]: value } });
		},
		unset(config, section, option) {
			delete this.values[config][section][option];
			this.todo.push({ method: "delete", config, section, options: [option] });
		},
		remove(config, section) {
			delete this.values[config][section];
			this.todo.push({ method: "delete", config, section });
		},
		async save() {
			const real = new Map();
			for (const step of this.todo.splice(0)) {
				if (step.method === "add") real.set(step.section, (await ubus("add", ["config", "type"])(step.config, step.type)).section);
				else {
					const section = real.get(step.section) ?? step.section;
					if (step.method === "set") await ubus("set", ["config", "section", "values"])(step.config, section, step.values);
					else await ubus("delete", ["config", "section", "options"])(step.config, section, step.options);
				}
			}
			this.values = {};
		},
		async apply() {
			await ubus("apply", ["timeout", "rollback"])(10, true);
			await ubus("confirm", [])();
		},
	};

	const ui = {
		showModal(title, children) {
			ui.hideModal();
			const box = E("div", { class: "modal", role: "dialog", "aria-modal": "true" }, [E("h4", {}, title)]);
			dom.append(box, children);
			document.body.appendChild(E("div", { id: "modal_overlay" }, [box]));
			document.body.classList.add("modal-overlay-active");
			return box;
		},
		hideModal() {
			document.getElementById("modal_overlay")?.remove();
			document.body.classList.remove("modal-overlay-active");
		},
		addNotification(_title, children, ...classes) {
			const note = E("div", { class: `alert-message ${classes.join(" ")}` }, []);
			dom.append(note, children);
			document.getElementById("view").before(note);
			return note;
		},
		createHandlerFn:
			(context, run, ...values) =>
			(event) => {
				const { currentTarget: button } = event;
				button.disabled = true;
				return Promise.resolve(run.call(context, ...values, event)).finally(() => {
					button.disabled = false;
				});
			},
		async instantiateView(path) {
			const page = await L.require(`view.${path.replaceAll("/", ".")}`);
			const place = document.getElementById("view");
			try {
				dom.content(place, await page.render(await page.load()));
				dom.append(place, page.addFooter());
			} catch (error) {
				dom.content(place, [E("div", { class: "alert-message error" }, [String(error.stack ?? error)])]);
			}
		},
	};

	const view = {
		extend: extend({
			load: () => null,
			render: () => null,
			handleSave: () => Promise.all(form.maps.map((map) => map.save())),
			handleSaveApply: () => view.saved().then(() => uci.apply()),
			handleReset: () => location.reload(),
			addFooter() {
				const buttons = [
					[this.handleSaveApply, "Save & Apply", "apply"],
					[this.handleSave, "Save", "save"],
					[this.handleReset, "Reset", "reset"],
				].filter(([handler]) => handler);
				if (buttons.length === 0) return document.createDocumentFragment();
				const disabled = L.hasViewPermission() ? null : true;
				const made = buttons.map(([run, text, kind]) => E("button", { class: `btn cbi-button cbi-button-${kind}`, disabled, click: ui.createHandlerFn(this, run) }, [text]));
				return E("div", { class: "cbi-page-actions" }, made);
			},
		}),
		saved: () => Promise.all(form.maps.map((map) => map.save())),
	};

	/** Forms: a map of sections of fields. */
	const form = { maps: [] };
	class Field {
		constructor(kind, name, title, description) {
			Object.assign(this, { kind, name, title, description, choices: [] });
		}
		value(key, text) {
			this.choices.push([key, text]);
		}
		render(section, stored) {
			const id = `widget.cbid.masqd.${section}.${this.name}`;
			const given = stored ?? (this.kind === "list" ? [] : (this.default ?? ""));
			let node;
			if (this.kind === "flag") node = E("input", { type: "checkbox", id, checked: given === "1" ? true : null });
			else if (this.kind === "choice") {
				node = E("select", { id, class: "cbi-input-select" }, this.choices.map(([key, text]) => E("option", { value: key, selected: key === given ? true : null }, [text])));
			} else {
				const text = Array.isArray(given) ? given.join(" ") : given;
				node = E("input", { type: "text", id, class: "cbi-input-text", value: text, placeholder: this.placeholder });
			}
			this.read = this.read ?? new Map();
			this.read.set(section, () => {
				if (this.kind === "flag") return node.checked ? "1" : "0";
				const text = node.value.trim();
				return this.kind === "list" ? (text === "" ? null : text.split(/\s+/)) : text === "" ? null : text;
			});
			return E("div", { class: "cbi-value" }, [
				E("label", { class: "cbi-value-title", for: id }, [this.title]),
				E("div", { class: "cbi-value-field" }, [node, E("div", { class: "cbi-value-description" }, this.description)]),
			]);
		}
	}
	class Section {
		constructor(map, type, title, description) {
			Object.assign(this, { map, type, title, description, fields: [] });
		}
		option(kind, name, title, description) {
			const field = new Field(kind, name, title, description);
			this.fields.push(field);
			return field;
		}
		render() {
			const parts = uci.sections(this.map.config, this.type).map((s) =>
				E("div", { class: "cbi-section-node" }, [
					...(this.addremove
						? [E("button", { class: "btn cbi-button-remove", click: () => this.map.change(() => uci.remove(this.map.config, s[".name"])) }, ["Delete"])]
						: []),
					...this.fields.map((field) => field.render(s[".name"], s[field.name])),
				]),
			);
			const add = E("button", { class: "btn cbi-button-add", click: () => this.map.change(() => uci.add(this.map.config, this.type)) }, ["Add"]);
			return E("div", { class: "cbi-section", id: `cbi-masqd-${this.type}` }, [
				E("h3", {}, this.title),
				E("div", { class: "cbi-section-descr" }, this.description),
				...parts,
				...(this.addremove ? [E("div", { class: "cbi-section-create" }, [add])] : []),
			]);
		}
		save() {
			for (const s of uci.sections(this.map.config, this.type))
				for (const field of this.fields) {
					const value = field.read?.get(s[".name"])?.();
					if (value === undefined) continue;
					const wanted = value === null || (field.rmempty && value === field.default) ? undefined : value;
					if (JSON.stringify(wanted) === JSON.stringify(s[field.name])) continue;
					if (wanted === undefined) uci.unset(this.map.config, s[".name"], field.name);
					else uci.set(this.map.config, s[".name"], field.name, wanted);
				}
		}
	}
	class FormMap {
		constructor(config, title, description) {
			Object.assign(this, { config, title, description, all: [] });
			form.maps.push(this);
		}
		section(_kind, ...words) {
			const section = new Section(this, ...words);
			this.all.push(section);
			return section;
		}
		async render() {
			await uci.load(this.config);
			this.node = E("div", { class: "cbi-map" }, [
				E("h2", {}, this.title),
				E("div", { class: "cbi-map-descr" }, this.description),
				...this.all.map((section) => section.render()),
			]);
			return this.node;
		}
		async change(run) {
			for (const section of this.all) section.save();
			run();
			const old = this.node;
			old.replaceWith(await this.render());
		}
		save() {
			for (const section of this.all) section.save();
			return uci.save();
		}
	}
	Object.assign(form, { Map: FormMap, TypedSection: "typed", Value: "text", ListValue: "choice", Flag: "flag", DynamicList: "list" });

	const builtIn = { baseclass, dom, form, poll, rpc, uci, ui, view };

	window.LuCI = class {
		constructor(env) {
			this.env = env;
		}
		hasViewPermission() {
			return this.env.nodespec.satisfied ? !this.env.nodespec.readonly : null;
		}
		toArray(value) {
			return value === null || value === undefined ? [] : Array.isArray(value) ? value : String(value).trim().split(/\s+/);
		}
		/** Fetches a class, after those that it requires by its first lines. */
		require(name) {
			if (builtIn[name] !== undefined) return Promise.resolve(builtIn[name]);
			if (!loaded.has(name)) {
				loaded.set(
					name,
					fetch(`${this.env.resource}/${name.replaceAll(".", "/")}.js`)
						.then((answer) => (answer.ok ? answer.text() : Promise.reject(new Error(`no class ${name}`))))
						.then(async (source) => {
							const needs = [...source.matchAll(/^'require ([\w.]+)(?: as (\w+))?';$/gm)];
							const classes = await Promise.all(needs.map(([, need]) => this.require(need)));
							const names = needs.map(([, need, as]) => as ?? need.replace(/\W/g, "_"));
							return new Function("window", "document", "L", ...names, source)(window, document, this, ...classes);
						}),
				);
			}
			return loaded.get(name);
		}
	};
})();
