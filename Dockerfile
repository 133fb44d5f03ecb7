FROM python:3.11-slim AS build
WORKDIR /src
COPY . .
RUN docker/build.sh /opt/kvfs

FROM python:3.11-slim
COPY --from=build /opt/kvfs /opt/kvfs
# The directory belongs to the user before it becomes a volume: a new volume takes over its owner.
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin kvfs \
    && mkdir -p /hoody/databases \
    && chown -R 10001:10001 /hoody
ENV PATH=/opt/kvfs/bin:$PATH \
    PYTHONUNBUFFERED=1
USER 10001
VOLUME /hoody/databases
EXPOSE 8080
STOPSIGNAL SIGTERM
# On another port, set KVFS_PORT too: the health check asks there.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-m", "server.healthcheck"]
ENTRYPOINT ["kvfs"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8080"]
