<?php
/**
 * Sends one job to a satellite and prints the answer: the whole dialogue of a
 * core, with php-amqplib (Debian: php-cli php-amqplib; or Composer).
 *
 *   export US_AMQP_DSN=amqp://user:password@host:5672/%2f USM_POLLER_SATELLITE_ID=7
 *   echo '{"action": "icmp.ping", "target": {"address": "192.0.2.10"}}' | php -f submit.php
 *   php -f submit.php job.json
 *
 * What a job may say: jobs/schema/job.schema.json. Exit status: 0 the job was
 * ok, 1 it was not or had no answer, 2 it could not be sent.
 */

declare(strict_types=1);

use PhpAmqpLib\Channel\AMQPChannel;
use PhpAmqpLib\Connection\AbstractConnection;
use PhpAmqpLib\Connection\AMQPSSLConnection;
use PhpAmqpLib\Connection\AMQPStreamConnection;
use PhpAmqpLib\Exception\AMQPTimeoutException;
use PhpAmqpLib\Message\AMQPMessage;

foreach ([__DIR__ . '/vendor/autoload.php', '/usr/share/php/PhpAmqpLib/autoload.php'] as $autoload) {
    if (is_file($autoload)) {
        require $autoload;
        break;
    }
}

function fail(string $why): void
{
    fwrite(STDERR, "submit.php: $why\n");
    exit(2);
}

function connect(string $dsn): AbstractConnection
{
    $u = parse_url($dsn);
    if (!isset($u['scheme'], $u['host'])) {
        fail('US_AMQP_DSN must be as amqp://user:password@host:5672/%2f');
    }
    $tls = $u['scheme'] === 'amqps';
    $user = rawurldecode($u['user'] ?? 'guest');
    $password = rawurldecode($u['pass'] ?? 'guest');
    $vhost = rawurldecode(substr($u['path'] ?? '/%2f', 1));
    $port = $u['port'] ?? ($tls ? 5671 : 5672);
    if ($tls) {
        $options = ['verify_peer' => true, 'verify_peer_name' => true];
        if (getenv('USM_AMQP_CA_FILE')) {
            $options['cafile'] = getenv('USM_AMQP_CA_FILE');
        }
        return new AMQPSSLConnection($u['host'], $port, $user, $password, $vhost, $options);
    }
    return new AMQPStreamConnection($u['host'], $port, $user, $password, $vhost);
}

/** A queue of our own, for answers; deleted when we go. */
function answerQueue(AMQPChannel $channel, string $key): string
{
    [$queue] = $channel->queue_declare('', false, false, true, true);
    $exchange = getenv('USM_RESULTS_EXCHANGE');
    if ($exchange) { // the satellites answer through an exchange of their own
        $channel->queue_bind($queue, $exchange, $key);
    }
    return $queue;
}

/** Publishes the job and waits until the broker has it. */
function send(AMQPChannel $channel, array $job, string $queue, string $replyTo, float $patience): void
{
    $channel->confirm_select();
    $channel->set_return_listener(static function () use ($queue): void {
        fail("the broker has no queue $queue; is the satellite's number right?");
    });
    $channel->set_nack_handler(static function (): void {
        fail('the broker did not take the job');
    });
    $message = new AMQPMessage(json_encode($job, JSON_THROW_ON_ERROR | JSON_UNESCAPED_SLASHES), [
        'type' => 'job',
        'content_type' => 'application/json',
        'delivery_mode' => AMQPMessage::DELIVERY_MODE_PERSISTENT,
        'message_id' => bin2hex(random_bytes(12)), // of this publication; job_id is the work
        'correlation_id' => $job['job_id'],
        'reply_to' => $replyTo,
        'timestamp' => time(),
        'priority' => 9, // a person waits
        'expiration' => (string) (int) (1000 * $patience), // nobody waits longer for it to begin
    ]);
    $channel->basic_publish($message, '', $queue, true);
    $channel->wait_for_pending_acks_returns(30);
}

/** Collects what comes for one job; parts of a streamed one are printed as they come. */
final class Answers
{
    public ?string $result = null;

    public function __construct(private readonly string $jobId)
    {
    }

    public function take(AMQPMessage $m): void
    {
        if (!$m->has('correlation_id') || $m->get('correlation_id') !== $this->jobId) {
            return; // somebody else's, where satellites answer through an exchange
        }
        if ($m->has('type') && $m->get('type') === 'part') {
            echo $m->getBody(), "\n";
            return;
        }
        $this->result ??= $m->getBody(); // a copy sent twice says the same
    }

    public function wait(AMQPChannel $channel, float $patience): ?string
    {
        $end = microtime(true) + $patience;
        while ($this->result === null && ($left = $end - microtime(true)) > 0) {
            try {
                $channel->wait(null, false, $left);
            } catch (AMQPTimeoutException $e) {
                break;
            }
        }
        return $this->result;
    }
}

$satellite = getenv('USM_POLLER_SATELLITE_ID');
$dsn = getenv('US_AMQP_DSN') ?: fail('US_AMQP_DSN is not set');
$job = json_decode((string) file_get_contents($argv[1] ?? 'php://stdin'), true);
is_array($job) && !array_is_list($job) || fail('the job must be a JSON object');
$job += ['schema' => 1, 'job_id' => 'php-' . bin2hex(random_bytes(8)), 'timeout_ms' => 30000];
if (($job['params'] ?? null) === []) {
    $job['params'] = new stdClass(); // an empty object, which PHP reads as a list
}
$patience = $job['timeout_ms'] / 1000 + 30;

try {
    $connection = connect($dsn);
    $channel = $connection->channel();
    $replyTo = answerQueue($channel, $satellite ? "sat.$satellite" : 'poller');
    $answers = new Answers($job['job_id']); // ready before the job is sent
    $channel->basic_consume($replyTo, '', false, true, true, false, [$answers, 'take']);
    send($channel, $job, $satellite ? "usm_poller-sat-$satellite" : 'usm_poller', $replyTo, $patience);
    $result = $answers->wait($channel, $patience);
    $connection->close();
} catch (Throwable $e) {
    fail(get_class($e) . ': ' . $e->getMessage());
}
if ($result === null) {
    fwrite(STDERR, "submit.php: no answer in $patience s\n");
    exit(1);
}
echo $result, "\n";
exit(json_decode($result, true)['status'] === 'ok' ? 0 : 1);
