// A Kaitai description as JSON on standard input, the Python parser of it on standard output.
// Argument: the folder of the package kaitai-struct-compiler.
const compiler = require(process.argv[2]);

let text = "";
process.stdin.on("data", (chunk) => (text += chunk));
process.stdin.on("end", async () => {
  const files = await compiler.compile("python", JSON.parse(text), null, false);
  process.stdout.write(Object.values(files).join("\n"));
});
