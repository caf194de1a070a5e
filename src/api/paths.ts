/** Where the API lives; liveness, readiness and metrics stand outside of it. */
export const BASE_PATH = '/api/v1';
