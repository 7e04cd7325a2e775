#!/bin/sh
# Run by the postgres image once, on an empty data folder: a database and a login of its own for Airflow's metadata and
# for the warehouse. The passwords come from the environment and stand in no argument of a process.
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
