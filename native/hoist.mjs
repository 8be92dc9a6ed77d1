/**
 * Makes `let` and `const` of a bundle `var` wherever that changes nothing: the engine tests at each use of the former
 * whether it has been initialised, and marks it as not initialised where its block begins, which is a fifth of the
 * bytecode. Columns stay, so the source map does.
 *
 * A declaration stays as it is if one for the whole function would be seen where its name means something else, if a
 * function made in a loop or in one of several blocks with that name keeps it, or if it would have to be emptied each
 * time around.
 */
import ts from "typescript";

const isLoop = (node) => ts.isIterationStatement(node, false);
/** What `var` belongs to. */
const isFunction = (node) =>
	ts.isFunctionLike(node) || ts.isSourceFile(node) || ts.isClassStaticBlockDeclaration(node) || ts.isPropertyDeclaration(node);
const isScope = (node) =>
	isFunction(node) || isLoop(node) || ts.isBlock(node) || ts.isCaseBlock(node) || ts.isCatchClause(node) || ts.isClassLike(node);

/** The names that a declaration binds. */
function* namesOf(binding) {
	if (ts.isIdentifier(binding)) yield binding.text;
	else for (const element of binding.elements) if (!ts.isOmittedExpression(element)) yield* namesOf(element.name);
}

/** Whether an identifier names a variable: no property, label, key, or name of an import or export elsewhere. */
function isReference(node) {
	const { parent } = node;
	if (ts.isPropertyAccessExpression(parent)) return parent.expression === node;
	if (ts.isPropertyAssignment(parent)) return parent.initializer === node;
	if (ts.isBindingElement(parent)) return parent.propertyName !== node;
	if (ts.isMethodDeclaration(parent) || ts.isAccessor(parent)) return false;
	if (ts.isPropertyDeclaration(parent)) return parent.initializer === node;
	if (ts.isLabeledStatement(parent) || ts.isBreakOrContinueStatement(parent)) return false;
	if (ts.isImportSpecifier(parent) || ts.isExportSpecifier(parent)) return (parent.propertyName ?? parent.name) === node;
	return !ts.isMetaProperty(parent);
}

/** The text of a bundle, hoisted. */
export function hoist(text) {
	const source = ts.createSourceFile("bundle.js", text, ts.ScriptTarget.ES2023, true, ts.ScriptKind.JS);
	/** Scope -> name -> its declarations: each a list of let or const, or null for any other. */
	const declared = new Map();
	const references = [];
	const lists = [];

	const up = (node, is) => {
		let at = node.parent;
		while (!is(at)) at = at.parent;
		return at;
	};
	const declare = (scope, name, list) => {
		const names = declared.get(scope) ?? new Map();
		declared.set(scope, names);
		names.set(name, [...(names.get(name) ?? []), list]);
	};
	const visit = (node) => {
		if (ts.isVariableDeclarationList(node)) {
			const blockScoped = (node.flags & (ts.NodeFlags.Let | ts.NodeFlags.Const)) !== 0;
			const scope = up(node, blockScoped ? isScope : isFunction);
			if (blockScoped) lists.push({ node, scope, owner: up(node, isFunction) });
			for (const { name } of node.declarations) for (const n of namesOf(name)) declare(scope, n, blockScoped ? node : null);
		} else if (ts.isParameter(node)) {
			for (const n of namesOf(node.name)) declare(node.parent, n, null);
		} else if (ts.isCatchClause(node) && node.variableDeclaration) {
			for (const n of namesOf(node.variableDeclaration.name)) declare(node, n, null);
		} else if (ts.isFunctionDeclaration(node) || ts.isClassDeclaration(node)) {
			if (node.name) declare(up(node, isScope), node.name.text, null);
		} else if ((ts.isFunctionExpression(node) || ts.isClassExpression(node)) && node.name) {
			declare(node, node.name.text, null);
		} else if (ts.isImportSpecifier(node) || ts.isNamespaceImport(node) || (ts.isImportClause(node) && node.name)) {
			declare(source, node.name.text, null);
		} else if (ts.isIdentifier(node) && isReference(node)) {
			references.push(node);
		}
		ts.forEachChild(node, visit);
	};
	visit(source);

	/** Function -> name: what is read of it there, or below, and belongs to something outside. */
	const outer = new Map();
	/** Scope -> name: used by a function within. */
	const kept = new Map();
	for (const node of references) {
		const passed = [];
		for (let at = node.parent; at; at = at.parent) {
			if (declared.get(at)?.has(node.text)) {
				const owner = isFunction(at) ? at : up(at, isFunction);
				if (passed.some((f) => f !== owner)) kept.set(at, (kept.get(at) ?? new Set()).add(node.text));
				break;
			}
			if (isFunction(at)) passed.push(at);
		}
		for (const f of passed) outer.set(f, (outer.get(f) ?? new Set()).add(node.text));
	}
	/** Function -> name -> the scopes in it that declare it. */
	const within = new Map();
	for (const [scope, names] of declared) {
		const owner = isFunction(scope) ? scope : up(scope, isFunction);
		const all = within.get(owner) ?? new Map();
		within.set(owner, all);
		for (const name of names.keys()) all.set(name, [...(all.get(name) ?? []), scope]);
	}
	const contains = (a, b) => a.pos <= b.pos && b.end <= a.end;
	const inLoop = ({ node, owner }) => {
		for (let at = node.parent; at !== owner; at = at.parent) if (isLoop(at)) return true;
		return false;
	};
	const stays = (list) => {
		const { node, scope, owner } = list;
		if (ts.isSourceFile(owner)) return true;
		const loop = inLoop(list);
		const head = ts.isForInStatement(node.parent) || ts.isForOfStatement(node.parent);
		return node.declarations.some((declaration) =>
			[...namesOf(declaration.name)].some((name) => {
				const scopes = within.get(owner).get(name);
				if (outer.get(owner)?.has(name)) return true;
				if (scopes.some((s) => declared.get(s).get(name).length > 1 || declared.get(s).get(name)[0] === null)) return true;
				if (scopes.some((s) => s !== scope && (contains(s, scope) || contains(scope, s)))) return true;
				if ((loop || scopes.length > 1) && kept.get(scope)?.has(name)) return true;
				return !declaration.initializer && !head && (loop || scopes.length > 1);
			}),
		);
	};
	// One that stays holds back all of its name in the function.
	const held = new Set(lists.filter(stays));
	for (let more = true; more; ) {
		more = false;
		const names = new Map();
		for (const { node, owner } of held) {
			const set = names.get(owner) ?? new Set();
			names.set(owner, set);
			for (const { name } of node.declarations) for (const n of namesOf(name)) set.add(n);
		}
		for (const list of lists) {
			if (held.has(list) || !list.node.declarations.some(({ name }) => [...namesOf(name)].some((n) => names.get(list.owner)?.has(n)))) continue;
			held.add(list);
			more = true;
		}
	}
	let result = "";
	let done = 0;
	for (const { node } of lists.filter((list) => !held.has(list))) {
		const at = node.getStart(source);
		const word = text.startsWith("let", at) ? "let" : "const";
		result += text.slice(done, at) + "var".padEnd(word.length);
		done = at + word.length;
	}
	return result + text.slice(done);
}
