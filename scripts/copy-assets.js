// Copies what the compiler leaves behind, the SQL migrations, beside the compiled code.
import { chmodSync, cpSync, existsSync } from 'node:fs';

cpSync('src/db/migrations', 'dist/db/migrations', { recursive: true });
if (existsSync('dist/cli.js')) chmodSync('dist/cli.js', 0o755);
