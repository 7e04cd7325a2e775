#!/bin/sh
# The postgres image runs this once, on an empty data folder. It creates two databases, each with its own login:
# Airflow's metadata and the warehouse. The passwords come from the environment, so that no process list shows them.
set -eu
psql --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres <<'SQL'
\getenv airflow POSTGRES_AIRFLOW_PASSWORD
\getenv warehouse POSTGRES_WAREHOUSE_PASSWORD
CREATE ROLE airflow LOGIN PASSWORD :'airflow';
CREATE ROLE warehouse LOGIN PASSWORD :'warehouse';
CREATE DATABASE airflow OWNER airflow;
CREATE DATABASE warehouse OWNER warehouse;
REVOKE CONNECT ON DATABASE airflow, warehouse FROM PUBLIC;
SQL
