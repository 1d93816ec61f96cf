// Writes what JSON.stringify prints for what the Node driver returns (package bson, the driver's default options), in its versions 6
// (that of Mongoose 8) and 7 (that of Mongoose 9), or null where the driver throws. `bson` is a document in base64.
//
//   vectors.jsonl     what both agree on, one `{ name, bson, json }` a line
//   differing.jsonl   what they don't, one `{ name, bson, driver6, driver7 }` a line
//
//   npm ci && npm run make
//
// For a longer comparison: ROWS=20000 OUT=/tmp/more- npm run make, then the unit tests with JSON_VECTORS=/tmp/more-.

import { writeFileSync } from "node:fs";
import * as driver6 from "bson6";
import * as driver7 from "bson7";

const { Binary, BSONRegExp, BSONSymbol, Code, Decimal128, Double, Int32, Long } = driver6;
const { MaxKey, MinKey, ObjectId, serialize, Timestamp, UUID } = driver6;
const agreed = [];
const differing = [];
const oid = new ObjectId("674700000000000000000001");

// ---- Documents byte by byte: what an encoder refuses to write may still be in a database.

const i32 = (n) => {
  const bytes = Buffer.alloc(4);
  bytes.writeInt32LE(n);
  return bytes;
};
const i64 = (n) => {
  const bytes = Buffer.alloc(8);
  bytes.writeBigInt64LE(BigInt(n));
  return bytes;
};
const f64 = (hex) => Buffer.from(hex, "hex").reverse();
const cstring = (text) => Buffer.concat([Buffer.from(text), Buffer.of(0)]);
const string = (text) => Buffer.concat([i32(Buffer.byteLength(text) + 1), cstring(text)]);
const element = (type, key, ...parts) => Buffer.concat([Buffer.of(type), cstring(key), ...parts]);
const raw = (...elements) => {
  const body = Buffer.concat(elements);
  return Buffer.concat([i32(body.length + 5), body, Buffer.of(0)]);
};
const text = (key, value) => element(0x02, key, string(value));
const int = (key, value) => element(0x10, key, i32(value));
const document = (key, ...elements) => element(0x03, key, raw(...elements));
const array = (key, ...elements) => element(0x04, key, raw(...elements));
const nil = (key) => element(0x0a, key);
const undef = (key) => element(0x06, key);
const id = (key) => element(0x07, key, Buffer.from(oid.id));
const symbol = (key, value) => element(0x0e, key, string(value));

function printed(driver, bytes) {
  try {
    return JSON.stringify(driver.deserialize(bytes));
  } catch (error) {
    if (error.name !== "BSONError") throw error;
    return null;
  }
}

function addRaw(name, bytes) {
  const row = { name, bson: Buffer.from(bytes).toString("base64") };
  const [by6, by7] = [printed(driver6, bytes), printed(driver7, bytes)];
  if (by6 === by7) agreed.push({ ...row, json: by6 });
  else differing.push({ ...row, driver6: by6, driver7: by7 });
}

const add = (name, value) => addRaw(name, serialize(value, { ignoreUndefined: false }));
const addAll = (name, values) => values.forEach((value) => add(`${name} ${String(value)}`, { value, list: [value] }));

// ---- Whole documents

add("empty document", {});
add("a certificate", {
  _id: oid,
  _userId: new ObjectId("674700000000000000000002"),
  _ownerId: new ObjectId("674700000000000000000003"),
  _badgeId: new ObjectId("674700000000000000000004"),
  creationDate: new Date("2024-11-27T10:30:00.000Z"),
  expires: new Date("2025-11-27T10:30:00.000Z"),
  disabled: false,
  expiryReminderSent: true,
  _lessonActiveIds: [new ObjectId("674700000000000000000005"), new ObjectId("674700000000000000000006")],
  ruleData: { type: "path", name: "Sécurité incendie", description: "Évacuer \"vite\"\n", validityDurationDays: 365 },
  createdAt: new Date("2024-11-27T10:30:00.123Z"),
  updatedAt: new Date("2024-11-27T10:30:00.456Z"),
  __v: 0,
});
add("nested", { a: { b: { c: [] } }, list: [[], [[1, [2, {}]], {}], { x: [null] }], empty: {} });
add("keys", { "": 1, "a.b": 2, $set: 3, 'qu"ote': 4, "back\\slash": 5, "new\nline": 6, é: 7, "🏅": 8, toJSON: "text", constructor: 1 });
add("toJSON of every kind", { a: { toJSON: null }, b: { toJSON: { toJSON: 1 } }, c: { toJSON: new Code("() => 1") } });

// ---- Scalars

addAll("double", [
  0.1, 1.5, -2.25, 1 / 3, 100, 123456789012345680000, 999999999999999900000, 1e21, 1.5e300, 1e-6, 1e-7, 1.25e-9, 5e-324, 123e-20,
  Number.MAX_VALUE, Number.MIN_VALUE, Number.EPSILON, Number.MAX_SAFE_INTEGER, 2 ** 53, 2 ** 63, 4.35, 0.000001, 9007199254740993,
].flatMap((n) => [new Double(n), new Double(-n)]));
addRaw("double zero", raw(element(1, "z", f64("0000000000000000"))));
addRaw("double minus zero", raw(element(1, "z", f64("8000000000000000"))));
addRaw("double NaN and infinities", raw(
  element(1, "nan", f64("7ff8000000000000")), element(1, "signalling", f64("7ff0000000000001")), element(1, "negative", f64("fff8000000000000")),
  element(1, "inf", f64("7ff0000000000000")), element(1, "minf", f64("fff0000000000000"))));
addAll("int32", [0, 1, -1, 42, 2147483647, -2147483648].map((n) => new Int32(n)));
addAll("long", [
  "0", "1", "-1", "2147483648", "-2147483649", "9007199254740991", "9007199254740992", "9007199254740993", "-9007199254740991",
  "-9007199254740992", "-9007199254740993", "9223372036854775807", "-9223372036854775808", "4611686018427387904", "-4611686022722355200",
].map((n) => Long.fromString(n)));
addAll("decimal128", [
  "0", "-0", "1", "-1", "1.50", "0.001", "0.000001", "0.0000001", "1E+3", "1E-7", "-1.5E+40", "0E+3", "0E-10", "-0E-6176", "12345.6789",
  "9999999999999999999999999999999999", "9.999999999999999999999999999999999E+6144", "1E-6176", "NaN", "Infinity", "-Infinity",
  "0.1234567890123456789012345678901234", "1234567890123456789012345678901234", "12345678901234567890123456789012.34",
].map((n) => Decimal128.fromString(n)));
addRaw("decimal128 with an impossible coefficient is zero", raw(element(0x13, "d", Buffer.alloc(14, 0xff), Buffer.of(0x41, 0x30))));
addRaw("decimal128 negative NaN", raw(element(0x13, "d", Buffer.alloc(15), Buffer.of(0xfc))));
addRaw("decimal128 signalling NaN", raw(element(0x13, "d", Buffer.alloc(15), Buffer.of(0x7e))));
addAll("boolean", [true, false]);
addAll("null", [null]);
add("undefined is dropped, null in a list", { a: undefined, b: 1, c: [undefined, 1, undefined], d: { e: undefined } });
addAll("string", [
  "", "plain", "é", "€", "🏅", "\u2028 \u2029", "\u0000 inside", "\"quotes\" and \\backslashes\\ and /slashes/", "\u007f", "\ufeffBOM", "\ufffd", "\uffff",
  "</script><!--", Array.from({ length: 32 }, (_, i) => String.fromCharCode(i)).join(""), "x".repeat(300), "é".repeat(300),
]);
add("lone surrogates become U+FFFD when they are stored", { high: "\ud800", low: "\udc00", swapped: "\udc00\ud800" });

const dates = [
  0, 1, -1, 999, -999, 1000, 1732703400000, 951782400000, 951868799999, 4107542400000, -86400000, -62135596800000, -62135596800001, -62167219200000,
  -62167219200001, -62198755200000, 253402300799999, 253402300800000, 8640000000000000, -8640000000000000, 8639999999999999, -2208988800000, 68169600000,
];
dates.forEach((ms) => add(`date ${ms}`, { value: new Date(ms) }));
["8640000000000001", "-8640000000000001", "9223372036854775807", "-9223372036854775808"].forEach((ms) =>
  addRaw(`date ${ms} is invalid`, raw(element(9, "value", i64(ms)), int("after", 1))));

addAll("objectid", [oid, new ObjectId("000000000000000000000000"), new ObjectId("ffffffffffffffffffffffff")]);
for (const subtype of [0, 1, 2, 3, 5, 6, 7, 8, 9, 128, 255]) {
  add(`binary subtype ${subtype}`, { value: new Binary(Buffer.from([0, 1, 2, 250, 251, 252, 253]), subtype) });
}
add("binary vector", { f32: Binary.fromFloat32Array(new Float32Array([1.5, -2])), i8: Binary.fromInt8Array(new Int8Array([1, -1])) });
for (const length of [0, 1, 2, 3, 16]) add(`binary of ${length} bytes`, { value: new Binary(Buffer.alloc(length, 0xff)) });
add("uuid", { value: new UUID("0123abcd-4567-89ef-8123-456789abcdef"), nil: new UUID("00000000-0000-0000-0000-000000000000") });
addRaw("uuid of a wrong length is a plain binary", raw(element(5, "value", i32(15), Buffer.of(4), Buffer.alloc(15, 7))));
addRaw("uuid of no version", raw(element(5, "value", i32(16), Buffer.of(4), Buffer.alloc(16, 0xab))));
add("old uuid is a plain binary", { value: new Binary(Buffer.alloc(16, 7), 3) });
add("regex", { native: /a+b/i, driver: new BSONRegExp("^x$", "imsx"), list: [/z/], empty: new BSONRegExp("", "") });
add("timestamp", { zero: new Timestamp({ t: 0, i: 0 }), some: new Timestamp({ t: 1732703400, i: 7 }), max: new Timestamp({ t: 0xffffffff, i: 0xffffffff }) });
add("minkey and maxkey", { min: new MinKey(), max: new MaxKey(), list: [new MinKey()] });
add("code", { plain: new Code("function () { return \"x\"; }"), list: [new Code("")] });
add("code with scope", { value: new Code("f()", { x: 1, "2": 2, nested: { y: [oid] } }), empty: new Code("g()", {}) });
add("symbol", { value: new BSONSymbol("sym\"bol"), list: [new BSONSymbol("")] });
addRaw("dbpointer", raw(element(0x0c, "p", string("badges"), Buffer.from(oid.id)), int("after", 1)));
addRaw("dbpointer with a database", raw(element(0x0c, "p", string("shop.badges"), Buffer.from(oid.id))));
addRaw("dbpointer with two dots", raw(element(0x0c, "p", string("a.b.c"), Buffer.from(oid.id))));
addRaw("dbpointer with a bare dot", raw(element(0x0c, "p", string("."), Buffer.from(oid.id))));

// ---- The order of an object's properties

add("integer keys come first", { b: 1, 10: 2, 9: 3, a: 4, 0: 5, "01": 6, "-1": 7, "1.5": 8, "+1": 9, "1e3": 10, "٣": 11 });
addRaw("greatest integer key", raw(int("x", 0), int("4294967296", 1), int("4294967295", 2), int("4294967294", 3), int("4294967293", 4), int("99999999999999999999", 5), int("00", 6)));
addRaw("integer keys in nested objects", raw(document("z", int("b", 1), int("1", 2), document("0", int("y", 1), int("7", 2))), int("3", 3)));
addRaw("a repeated key keeps its place and takes the last value", raw(int("a", 1), int("b", 2), int("a", 3), text("c", "x"), document("b", int("n", 1))));
addRaw("a repeated key among many", raw(...Array.from({ length: 100 }, (_, i) => int(`k${i % 60}`, i))));
addRaw("a repeated integer key", raw(int("5", 1), int("a", 2), int("5", 3), int("1", 4), int("1", 5)));
addRaw("a repeated key that ends undefined", raw(int("a", 1), int("b", 2), undef("a"), undef("c"), int("c", 1)));
addRaw("every property undefined", raw(undef("a"), undef("1"), document("b", undef("c"))));
addRaw("__proto__", raw(int("a", 1), document("__proto__", int("b", 2)), int("c", 3), int("__proto__", 4)));
addRaw("many plain keys", raw(...Array.from({ length: 200 }, (_, i) => int(`key${i}`, i))));
addRaw("an array's keys are not read", raw(array("l", int("7", 1), int("0", 2), int("0", 3), int("x", 4), int("", 5))));

// ---- What looks like a DBRef

addRaw("dbref", raw(document("r", text("$ref", "badges"), id("$id"))));
addRaw("dbref with a database", raw(document("r", text("$ref", "badges"), id("$id"), text("$db", "shop"))));
addRaw("dbref with more fields", raw(document("r", int("x", 1), text("$db", "shop"), id("$id"), int("3", 2), text("$ref", "badges"), int("y", 3), int("1", 4))));
addRaw("dbref at the top", raw(id("_id"), text("$ref", "badges"), id("$id")));
addRaw("dbref whose collection holds a dot", raw(document("r", text("$db", "lost"), text("$ref", "shop.badges"), id("$id"), int("x", 1))));
addRaw("dbref whose collection holds two dots", raw(document("r", text("$ref", "a.b.c"), id("$id"), int("x", 1))));
addRaw("dbref of a bare dot", raw(document("r", text("$ref", "."), id("$id"))));
addRaw("dbref of a symbol and any id", raw(document("r", symbol("$ref", "badges"), text("$id", "any"), symbol("$db", "d"))));
addRaw("dbref with repeated keys", raw(document("r", int("$ref", 1), id("$id"), text("$ref", "late"), int("x", 1), int("x", 2))));
addRaw("dbref with __proto__", raw(document("r", text("$ref", "badges"), document("__proto__", int("p", 1)), id("$id"), int("x", 1))));
addRaw("dbref with undefined fields", raw(document("r", text("$ref", "badges"), id("$id"), undef("x"), int("y", 1))));
addRaw("no dbref: other key with a dollar", raw(document("r", int("x", 1), text("$ref", "badges"), int("$x", 1), id("$id"))));
addRaw("no dbref: null id", raw(document("r", int("x", 1), nil("$id"), text("$ref", "badges"))));
addRaw("no dbref: undefined id", raw(document("r", int("x", 1), undef("$id"), text("$ref", "badges"))));
addRaw("no dbref: null database", raw(document("r", int("x", 1), id("$id"), text("$ref", "badges"), nil("$db"))));
addRaw("no dbref: undefined database", raw(document("r", int("x", 1), id("$id"), text("$ref", "badges"), undef("$db"))));
addRaw("no dbref: numeric collection", raw(document("r", id("$id"), int("$ref", 1), int("x", 1))));
addRaw("no dbref: no id", raw(document("r", int("x", 1), text("$ref", "badges"))));
addRaw("a dbref in a scope", raw(element(0x0f, "c", i32(4 + 4 + 2 + raw(int("x", 1), text("$ref", "b"), id("$id")).length), string("f"), raw(int("x", 1), text("$ref", "b"), id("$id")))));

// ---- What the driver refuses

addRaw("invalid UTF-8", raw(document("a", array("b", int("0", 1), element(2, "1", i32(3), Buffer.of(0xc3, 0x28, 0))))));
addRaw("invalid UTF-8: an encoded surrogate", raw(element(2, "a", i32(4), Buffer.of(0xed, 0xa0, 0x80, 0))));
addRaw("illegal boolean", raw(element(8, "a", Buffer.of(2))));
addRaw("unknown type", raw(element(0x20, "a", Buffer.of(2))));

// ---- Anything at all, from a fixed seed

let state = 20241127;
const random = (below) => {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return Math.floor((state / 2 ** 32) * below);
};
const pick = (...choices) => choices[random(choices.length)];
const bytes = (length) => Buffer.from(Array.from({ length }, () => random(256)));
const randomKey = () => pick("a", "b", "$ref", "$id", "$db", "x.y", "é", `${random(20)}`, `k${random(99)}`, "__proto__", "");
const randomText = () => Array.from({ length: random(12) }, () => String.fromCodePoint(pick(random(128), 0xe9, 0x20ac, 0x1f3c5, 0x2028))).join("");
const scalars = [
  (k) => text(k, randomText()), (k) => element(1, k, bytes(8)), (k) => int(k, random(2 ** 32) - 2 ** 31), (k) => element(0x12, k, bytes(8)),
  (k) => element(0x12, k, i64(random(2 ** 32))), (k) => id(k), (k) => element(8, k, Buffer.of(random(2))), nil, undef,
  (k) => element(9, k, i64((random(2 ** 32) - 2 ** 31) * 4100000 + random(1000))), (k) => element(0x11, k, bytes(8)), (k) => symbol(k, randomText()),
  (k) => element(5, k, i32(16), Buffer.of(pick(0, 3, 4, 5)), bytes(16)), (k) => element(0x0d, k, string("f()")),
  (k) => element(0x13, k, bytes(14), Buffer.of(pick(0x3e, 0x40), pick(0x30, 0xb0))),
];
const randomElement = (key, depth) => {
  const kind = depth > 0 ? random(10) : 9;
  const children = () => Array.from({ length: random(6) }, () => randomElement(randomKey(), depth - 1));
  if (kind < 3) return document(key, ...children());
  return kind < 5 ? array(key, ...children()) : pick(...scalars)(key);
};
const total = Number(process.env.ROWS ?? 300);
for (let n = 0; n < total; n++) {
  addRaw(`random ${n}`, raw(...Array.from({ length: random(10) }, () => randomElement(randomKey(), 4))));
}

const write = (name, rows) => writeFileSync(`${process.env.OUT ?? ""}${name}.jsonl`, rows.map((row) => `${JSON.stringify(row)}\n`).join(""));
write("vectors", agreed);
write("differing", differing);
console.log(`${agreed.length} vectors, ${agreed.filter((row) => row.json === null).length} of them refused; ${differing.length} differ`);
