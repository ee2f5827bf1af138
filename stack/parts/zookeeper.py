"""ZooKeeper: service discovery. The server of the Debian package, run by java itself: no shell scripts between."""

from __future__ import annotations

from stack import probes
from stack.environment import Environment
from stack.parts.base import Need, Part, program

_JARS = "/usr/share/java"
_HEAP_MIB = 256
# From /usr/share/zookeeper/bin/zkEnv.sh of zookeeper 3.8; the manifest of zookeeper.jar names the rest, but
# no logging backend, and without one the reason of a failed start is lost.
_CLASS_PATH = [f"{_JARS}/zookeeper.jar", f"{_JARS}/slf4j-api.jar", f"{_JARS}/slf4j-simple.jar"]


def zookeeper(env: Environment) -> Part:
    directory = env.part_directory("zookeeper")
    config = directory / "zoo.cfg"
    port = env.ports["zookeeper"]

    def prepare() -> None:
        (directory / "data").mkdir(exist_ok=True)
        settings = {
            "tickTime": 2000,
            "dataDir": directory / "data",
            "clientPort": port,
            "clientPortAddress": "127.0.0.1",
            "admin.enableServer": "false",
            "4lw.commands.whitelist": "ruok,srvr,mntr",
            "maxClientCnxns": 0,
            "autopurge.snapRetainCount": 3,
            "autopurge.purgeInterval": 1,
        }
        config.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))

    def ready() -> bool:
        # ruok answers before the data is loaded; srvr only then says in which mode it serves.
        return probes.exchange(port, b"srvr\n", b"Mode: ")

    return Part(
        name="zookeeper",
        argv=[
            program("java"),
            f"-Xmx{_HEAP_MIB}m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            # Losing the last second at a power cut is no loss here: the publisher rebuilds it.
            "-Dzookeeper.forceSync=no",
            "-Dzookeeper.log.dir=" + str(directory),
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=info",
            "-Dorg.slf4j.simpleLogger.showDateTime=true",
            "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSS",
            "-cp",
            ":".join(_CLASS_PATH),
            "org.apache.zookeeper.server.quorum.QuorumPeerMain",
            str(config),
        ],
        ready=ready,
        cwd=directory,
        needs=[
            Need("java", "default-jre-headless"),
            Need(_CLASS_PATH[0], "libzookeeper-java"),
            Need(_CLASS_PATH[2], "libslf4j-java"),
        ],
        ports=[env.port("zookeeper", "zookeeper (service discovery)")],
        prepare=prepare,
        start_wait_s=60,
    )
