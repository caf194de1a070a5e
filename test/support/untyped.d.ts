declare module 'newman' {
  const newman: { run: (options: unknown, done: (error: unknown, summary: any) => void) => void };
  export default newman;
}
declare module 'openapi-to-postmanv2' {
  const converter: {
    convert: (
      input: { type: 'string'; data: string },
      options: object,
      done: (error: unknown, result: any) => void,
    ) => void;
  };
  export default converter;
}
