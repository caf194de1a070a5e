// Copies what the compiler leaves behind (SQL migrations, the printed contract) beside the compiled code.
import { chmodSync, cpSync, existsSync } from 'node:fs';

cpSync('src/db/migrations', 'dist/db/migrations', { recursive: true });
if (existsSync('openapi.yaml')) cpSync('openapi.yaml', 'dist/openapi.yaml');
if (existsSync('dist/cli.js')) chmodSync('dist/cli.js', 0o755);
