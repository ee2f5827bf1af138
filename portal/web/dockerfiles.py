"""A minimal Dockerfile for each language: a service that listens on $PORT, stops on SIGTERM and is not root."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Dockerfile:
    key: str
    name: str
    text: str


#: ``exec`` where a shell expands $PORT: else the shell gets SIGTERM, and does not pass it on.
DOCKERFILES: Final = (
    Dockerfile(
        "python",
        "Python",
        """\
FROM python:3.13-slim
WORKDIR /app
COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt
COPY . .
USER 1000
# gunicorn is one of the requirements; "main:app" is the application in main.py.
CMD exec gunicorn --bind 0.0.0.0:$PORT main:app
""",
    ),
    Dockerfile(
        "node",
        "Node.js",
        """\
FROM node:22-slim
WORKDIR /app
COPY package*.json ./
RUN npm ci --omit=dev
COPY . .
USER node
# In server.js: listen on process.env.PORT, and close the server on SIGTERM.
CMD ["node", "server.js"]
""",
    ),
    Dockerfile(
        "go",
        "Go",
        """\
FROM golang:1.24 AS build
WORKDIR /src
COPY . .
RUN CGO_ENABLED=0 go build -o /server .

FROM scratch
COPY --from=build /server /server
USER 1000
# In the program: listen on ":" + os.Getenv("PORT"), and call Shutdown on SIGTERM.
CMD ["/server"]
""",
    ),
    Dockerfile(
        "java",
        "Java",
        """\
FROM maven:3-eclipse-temurin-21 AS build
WORKDIR /src
COPY . .
RUN mvn --batch-mode -DskipTests package

FROM eclipse-temurin:21-jre
COPY --from=build /src/target/*.jar /app.jar
USER 1000
# Spring Boot; of the release's memory the heap gets three quarters.
CMD exec java -XX:MaxRAMPercentage=75 -jar /app.jar --server.port=$PORT --server.shutdown=graceful
""",
    ),
    Dockerfile(
        "php",
        "PHP",
        """\
FROM php:8.4-apache
COPY . /var/www/html/
RUN sed -i 's/^Listen 80$/Listen ${PORT}/' /etc/apache2/ports.conf \\
 && sed -i 's/\\*:80/*:${PORT}/' /etc/apache2/sites-available/000-default.conf
USER www-data
# Apache ends its requests and stops on SIGWINCH: choose that as the stop signal when you deploy.
CMD ["apache2-foreground"]
""",
    ),
    Dockerfile(
        "ruby",
        "Ruby",
        """\
FROM ruby:3.4-slim
WORKDIR /app
COPY Gemfile* ./
RUN apt-get update && apt-get install -y --no-install-recommends build-essential \\
 && bundle install && apt-get purge -y --auto-remove build-essential && rm -rf /var/lib/apt/lists/*
COPY . .
USER 1000
# puma is in the Gemfile, config.ru in the directory.
CMD exec bundle exec puma --bind tcp://0.0.0.0:$PORT
""",
    ),
    Dockerfile(
        "static",
        "nginx",
        """\
FROM nginxinc/nginx-unprivileged:1.28-alpine
USER root
# The image fills in $PORT when it starts.
RUN mkdir -p /etc/nginx/templates \\
 && echo 'server { listen ${PORT}; root /usr/share/nginx/html; location = /_ping { return 200; } }' \\
    > /etc/nginx/templates/default.conf.template
USER 101
COPY . /usr/share/nginx/html/
# nginx ends its requests on SIGQUIT: choose that as the stop signal when you deploy.
""",
    ),
)
