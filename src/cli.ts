#!/usr/bin/env node
import { explainRefusal, serve } from './cli/serve.ts';

serve().then(
  (code) => process.exit(code),
  (error: unknown) => process.exit(explainRefusal(error)),
);
