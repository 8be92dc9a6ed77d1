// Prints what src/native.d.ts declares, as JSON: the arity of every function, and the value of every constant
// (null where the type does not say it). The unit test and the test on the real engine compare this list with theirs.

import { readFileSync } from "node:fs";
import ts from "typescript";

const path = new URL("../../src/native.d.ts", import.meta.url);
const source = ts.createSourceFile("native.d.ts", readFileSync(path, "utf8"), ts.ScriptTarget.ES2023);

const module = source.statements.find((statement) => ts.isModuleDeclaration(statement) && statement.name.text === "masq:native");
if (!module) throw new Error("native.d.ts declares no module masq:native");

const functions = {};
const constants = {};
for (const statement of module.body.statements) {
	if (ts.isFunctionDeclaration(statement)) {
		const name = statement.name.text;
		if (name in functions) throw new Error(`${name}: declared twice`);
		if (statement.parameters.some((parameter) => parameter.questionToken || parameter.dotDotDotToken || parameter.initializer))
			throw new Error(`${name}: every parameter of the FFI is required`);
		functions[name] = statement.parameters.length;
	} else if (ts.isVariableStatement(statement)) {
		for (const declaration of statement.declarationList.declarations) {
			const type = declaration.type;
			const literal = type && ts.isLiteralTypeNode(type) && ts.isNumericLiteral(type.literal) ? Number(type.literal.text) : null;
			constants[declaration.name.text] = literal;
		}
	}
}

process.stdout.write(`${JSON.stringify({ functions, constants })}\n`);
