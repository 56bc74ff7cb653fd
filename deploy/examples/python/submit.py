#!/usr/bin/python3
"""Sends one job to a satellite and prints the answer: the whole dialogue of a
core, with pika (Debian: python3-pika).

  export US_AMQP_DSN=amqp://user:password@host:5672/%2f USM_POLLER_SATELLITE_ID=7
  echo '{"action": "icmp.ping", "target": {"address": "192.0.2.10"}}' | ./submit.py
  ./submit.py job.json

What a job may say: jobs/schema/job.schema.json. Exit status: 0 the job was ok,
1 it was not or had no answer, 2 it could not be sent.
"""

import json
import os
import ssl
import sys
import time
import uuid

import pika
from pika.exceptions import AMQPError, NackError, UnroutableError


def fail(why):
    print("submit.py: " + why, file=sys.stderr)
    sys.exit(2)


def connect():
    dsn = os.environ.get("US_AMQP_DSN") or fail("US_AMQP_DSN is not set")
    parameters = pika.URLParameters(dsn)
    if dsn.startswith("amqps://"):
        context = ssl.create_default_context(cafile=os.environ.get("USM_AMQP_CA_FILE"))
        parameters.ssl_options = pika.SSLOptions(context, parameters.host)
    return pika.BlockingConnection(parameters)


def answer_queue(channel, key):
    """A queue of our own, for answers; deleted when we go."""
    queue = channel.queue_declare("", exclusive=True, auto_delete=True).method.queue
    exchange = os.environ.get("USM_RESULTS_EXCHANGE")
    if exchange:  # the satellites answer through an exchange of their own
        channel.queue_bind(queue, exchange, key)
    return queue


def send(channel, job, queue, reply_to, patience):
    """Publishes the job and waits until the broker has it."""
    channel.confirm_delivery()
    properties = pika.BasicProperties(
        type="job",
        content_type="application/json",
        delivery_mode=2,
        message_id=uuid.uuid4().hex,  # of this publication; job_id is the work
        correlation_id=job["job_id"],
        reply_to=reply_to,
        timestamp=int(time.time()),
        priority=9,  # a person waits
        expiration=str(int(1000 * patience)),  # nobody waits longer for it to begin
    )
    try:
        channel.basic_publish("", queue, json.dumps(job), properties, mandatory=True)
    except UnroutableError:
        fail("the broker has no queue %s; is the satellite's number right?" % queue)
    except NackError:
        fail("the broker did not take the job")


def wait(channel, queue, job_id, patience):
    """Waits for the answer; parts of a streamed one are printed as they come."""
    end = time.monotonic() + patience
    for method, properties, body in channel.consume(queue, auto_ack=True, inactivity_timeout=1):
        if method is not None and properties.correlation_id == job_id:
            if properties.type != "part":
                return json.loads(body)
            print(body.decode())
        if time.monotonic() > end:
            return None


def main():
    satellite = os.environ.get("USM_POLLER_SATELLITE_ID")
    source = open(sys.argv[1], encoding="utf-8") if len(sys.argv) > 1 else sys.stdin
    try:
        job = json.load(source)
    except ValueError:
        fail("the job must be a JSON object")
    job = {"schema": 1, "job_id": "py-" + uuid.uuid4().hex, "timeout_ms": 30000, **job}
    patience = job["timeout_ms"] / 1000 + 30
    try:
        connection = connect()
        channel = connection.channel()
        reply_to = answer_queue(channel, "sat." + satellite if satellite else "poller")
        send(channel, job, "usm_poller-sat-" + satellite if satellite else "usm_poller", reply_to, patience)
        result = wait(channel, reply_to, job["job_id"], patience)
        connection.close()
    except (AMQPError, OSError) as e:
        fail("%s: %s" % (type(e).__name__, e))
    if result is None:
        print("submit.py: no answer in %.0f s" % patience, file=sys.stderr)
        sys.exit(1)
    print(json.dumps(result, ensure_ascii=False))
    sys.exit(0 if result["status"] == "ok" else 1)


if __name__ == "__main__":
    main()
