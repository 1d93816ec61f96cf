// mongosh.mjs URI: runs what standard input holds as mongosh would, as far as the documents need it. What is pasted has no `await`.
import { readFileSync } from "node:fs";
import { MongoClient } from "mongodb";

const client = await MongoClient.connect(process.argv[2]);
const commands = [];
const later = (command) => void commands.push(command);

function collection(database, name) {
  return {
    // false where there is none.
    drop: () => later(() => database.collection(name).drop().catch((error) => error.code === 26 || Promise.reject(error))),
    dropIndex: (index) => later(() => database.collection(name).dropIndex(index)),
  };
}

function getSiblingDB(name) {
  const database = client.db(name);
  const known = {
    runCommand: (command) => later(() => database.command(command)),
    dropUser: (user) => later(() => database.command({ dropUser: user })),
    dropRole: (role) => later(() => database.command({ dropRole: role })),
  };
  return new Proxy(known, { get: (_, key) => known[key] ?? collection(database, key) });
}

new Function("db", readFileSync(0, "utf8"))({ getSiblingDB });
for (const command of commands) await command();
await client.close();
