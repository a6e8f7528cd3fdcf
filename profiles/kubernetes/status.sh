#!/bin/sh
# What Snakemake asks of a Job: success, failed or running.
state=$(kubectl get job "$1" --ignore-not-found \
  --output='jsonpath={.metadata.name}/{.status.succeeded}/{.status.failed}') || state=unknown
case $state in
  unknown) echo running ;; # the server did not answer: ask again later
  "") echo failed ;;       # somebody deleted it
  */1/*) echo success ;;
  */[1-9]*) echo failed ;;
  *) echo running ;;
esac
