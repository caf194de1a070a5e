# The gateway without its embedded database: MAILGUARD_DATABASE_URL must be set.

FROM node:24-bookworm-slim AS build
WORKDIR /app
COPY package.json package-lock.json tsconfig.json tsconfig.build.json ./
COPY scripts scripts
COPY src src
# Builds dist by itself, in `prepare`.
RUN npm ci

FROM node:24-bookworm-slim AS modules
WORKDIR /app
COPY package.json package-lock.json ./
# The optional packages are PostgreSQL's binaries. No package that is left needs a script, and our own
# `prepare` needs the compiler.
RUN npm ci --omit=dev --omit=optional --ignore-scripts

FROM node:24-bookworm-slim
ENV NODE_ENV=production MAILGUARD_DATA_DIR=/data
WORKDIR /app
# A volume that is new takes this owner over.
RUN install -d -m 700 -o node -g node /data
COPY --from=modules /app/node_modules node_modules
COPY --from=build /app/dist dist
COPY package.json ./
USER node
EXPOSE 3443
# Of plain HTTP; set another where the gateway serves TLS itself.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
  CMD ["node", "-e", "fetch(`http://127.0.0.1:${process.env.MAILGUARD_PORT || 3443}/livez`).then(({ ok }) => process.exit(ok ? 0 : 1), () => process.exit(1))"]
ENTRYPOINT ["node", "dist/cli.js"]
CMD ["serve"]
