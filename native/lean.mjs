/**
 * Makes the sources of the bundles lean before they are bundled; the engine keeps a variable for each name that a module
 * or a class declares, and in each function that uses it an entry for it, in memory and in the package.
 *
 * A constant that is a number or a text when its file is read stands where it is used, also those of an object that is
 * `as const`. A private name is a property's instead, which bundles.mjs makes a short one: the compiler has seen by then
 * that nobody else uses it. What is done to a line leaves the lines below where they are.
 */
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import ts from "typescript";

/** Begins the name of a property that was private. */
export const PRIVATE = /^\$/;
/** A longer text is kept once. */
const TEXT_MAX = 64;

/** Path -> the parsed file, what it imports by name, and the initial values of its constants. */
const files = new Map();

function parsed(path) {
	const known = files.get(path);
	if (known !== undefined) return known;
	const text = readFileSync(path, "utf8");
	const source = ts.createSourceFile(path, text, ts.ScriptTarget.ES2023, true, ts.ScriptKind.TS);
	const file = { path, text, source, imports: new Map(), initial: new Map(), values: new Map() };
	files.set(path, file);
	for (const statement of source.statements) {
		const bindings = ts.isImportDeclaration(statement) ? statement.importClause?.namedBindings : undefined;
		if (bindings && ts.isNamedImports(bindings) && statement.moduleSpecifier.text.startsWith("."))
			for (const { name, propertyName } of bindings.elements)
				file.imports.set(name.text, [join(dirname(path), statement.moduleSpecifier.text), (propertyName ?? name).text]);
		if (!ts.isVariableStatement(statement) || !(statement.declarationList.flags & ts.NodeFlags.Const)) continue;
		for (const { name, initializer } of statement.declarationList.declarations)
			if (ts.isIdentifier(name) && initializer) file.initial.set(name.text, initializer);
	}
	return file;
}

const OPERATORS = {
	[ts.SyntaxKind.PlusToken]: (a, b) => a + b,
	[ts.SyntaxKind.MinusToken]: (a, b) => a - b,
	[ts.SyntaxKind.AsteriskToken]: (a, b) => a * b,
	[ts.SyntaxKind.SlashToken]: (a, b) => a / b,
	[ts.SyntaxKind.PercentToken]: (a, b) => a % b,
	[ts.SyntaxKind.AsteriskAsteriskToken]: (a, b) => a ** b,
	[ts.SyntaxKind.LessThanLessThanToken]: (a, b) => a << b,
	[ts.SyntaxKind.GreaterThanGreaterThanToken]: (a, b) => a >> b,
	[ts.SyntaxKind.GreaterThanGreaterThanGreaterThanToken]: (a, b) => a >>> b,
	[ts.SyntaxKind.AmpersandToken]: (a, b) => a & b,
	[ts.SyntaxKind.BarToken]: (a, b) => a | b,
	[ts.SyntaxKind.CaretToken]: (a, b) => a ^ b,
};

/** The number or text that an expression of a file is, undefined for anything else; of `as const` objects a Map. */
function valueOf(file, node) {
	if (ts.isNumericLiteral(node)) return Number(node.text);
	if (ts.isStringLiteral(node) || ts.isNoSubstitutionTemplateLiteral(node)) return node.text;
	if (ts.isParenthesizedExpression(node)) return valueOf(file, node.expression);
	if (ts.isIdentifier(node)) return constant(file, node.text);
	if (ts.isPropertyAccessExpression(node)) {
		const object = valueOf(file, node.expression);
		return object instanceof Map ? object.get(node.name.text) : undefined;
	}
	if (ts.isPrefixUnaryExpression(node)) {
		const value = valueOf(file, node.operand);
		if (typeof value !== "number") return undefined;
		if (node.operator === ts.SyntaxKind.MinusToken) return -value;
		return node.operator === ts.SyntaxKind.TildeToken ? ~value : undefined;
	}
	if (ts.isBinaryExpression(node)) {
		const [a, b] = [valueOf(file, node.left), valueOf(file, node.right)];
		return typeof a === "number" && typeof b === "number" ? OPERATORS[node.operatorToken.kind]?.(a, b) : undefined;
	}
	if (ts.isAsExpression(node) && node.type.getText() === "const" && ts.isObjectLiteralExpression(node.expression)) {
		const object = new Map();
		for (const property of node.expression.properties) {
			if (!ts.isPropertyAssignment(property) || ts.isComputedPropertyName(property.name)) return undefined;
			object.set(property.name.text, valueOf(file, property.initializer));
		}
		return object;
	}
	return undefined;
}

/** What a name means at the top of a file. */
function constant(file, name) {
	if (file.values.has(name)) return file.values.get(name);
	// Of one that means itself nothing is known.
	file.values.set(name, undefined);
	const initial = file.initial.get(name);
	const [from, other] = file.imports.get(name) ?? [];
	let value;
	if (initial !== undefined) value = valueOf(file, initial);
	else if (from !== undefined) value = constant(parsed(from), other);
	file.values.set(name, value);
	return value;
}

/** Whether an identifier is an expression that reads a variable, and a literal can stand in its place. */
function isRead(node) {
	const { parent } = node;
	if (ts.isPropertyAccessExpression(parent)) return false;
	if (ts.isPropertyAssignment(parent)) return parent.initializer === node;
	if (ts.isElementAccessExpression(parent)) return parent.argumentExpression === node;
	if (ts.isVariableDeclaration(parent) || ts.isParameter(parent) || ts.isBindingElement(parent) || ts.isPropertyDeclaration(parent))
		return parent.initializer === node;
	return PLAIN.has(parent.kind);
}

/** What an expression may stand in. */
const PLAIN = new Set([
	ts.SyntaxKind.ArrayLiteralExpression,
	ts.SyntaxKind.ArrowFunction,
	ts.SyntaxKind.AsExpression,
	ts.SyntaxKind.BinaryExpression,
	ts.SyntaxKind.BindingElement,
	ts.SyntaxKind.CallExpression,
	ts.SyntaxKind.CaseClause,
	ts.SyntaxKind.ComputedPropertyName,
	ts.SyntaxKind.ConditionalExpression,
	ts.SyntaxKind.ElementAccessExpression,
	ts.SyntaxKind.ExpressionStatement,
	ts.SyntaxKind.ForStatement,
	ts.SyntaxKind.IfStatement,
	ts.SyntaxKind.NewExpression,
	ts.SyntaxKind.Parameter,
	ts.SyntaxKind.ParenthesizedExpression,
	ts.SyntaxKind.PrefixUnaryExpression,
	ts.SyntaxKind.PropertyAssignment,
	ts.SyntaxKind.PropertyDeclaration,
	ts.SyntaxKind.ReturnStatement,
	ts.SyntaxKind.SwitchStatement,
	ts.SyntaxKind.TemplateSpan,
	ts.SyntaxKind.VariableDeclaration,
	ts.SyntaxKind.WhileStatement,
]);

/** The text of a file, lean. */
export function lean(path) {
	const file = parsed(path);
	const { text, source } = file;
	/** Names that mean something else somewhere in the file. */
	const others = new Set();
	const changes = [];
	const visit = (node) => {
		if ((ts.isVariableDeclaration(node) || ts.isParameter(node) || ts.isBindingElement(node)) && ts.isIdentifier(node.name)) {
			if (file.initial.get(node.name.text) === undefined || file.initial.get(node.name.text) !== node.initializer) others.add(node.name.text);
		} else if (ts.isPrivateIdentifier(node)) {
			changes.push({ from: node.getStart(source), to: node.end, text: node.text.replace("#", "$") });
		}
		ts.forEachChild(node, visit);
	};
	visit(source);
	const replace = (node) => {
		if (ts.isTypeNode(node) || ts.isImportDeclaration(node) || ts.isExportDeclaration(node)) return;
		const isName = ts.isIdentifier(node) || (ts.isPropertyAccessExpression(node) && ts.isIdentifier(node.expression));
		if (isName && isRead(node) && !others.has((ts.isIdentifier(node) ? node : node.expression).text)) {
			const value = valueOf(file, node);
			const literal = typeof value === "number" && Number.isFinite(value) ? `${value}` : undefined;
			const quoted = typeof value === "string" && value.length <= TEXT_MAX ? JSON.stringify(value) : undefined;
			const written = literal !== undefined && (value < 0 || Object.is(value, -0)) ? `(${literal})` : (literal ?? quoted);
			if (written !== undefined) {
				const from = node.getStart(source);
				changes.push({ from, to: node.end, text: written.padEnd(node.end - from) });
				return;
			}
		}
		ts.forEachChild(node, replace);
	};
	replace(source);
	let result = "";
	let done = 0;
	for (const change of changes.sort((a, b) => a.from - b.from)) {
		result += text.slice(done, change.from) + change.text;
		done = change.to;
	}
	return result + text.slice(done);
}
