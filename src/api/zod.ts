import { extendZodWithOpenApi } from '@asteasolutions/zod-to-openapi';
import { z } from 'zod';

// Schemas carry their descriptions and examples for the printed contract.
extendZodWithOpenApi(z);

export { z };
