/** Something that happened; `owner` null means that it is for every reader. */
@CompileStatic
class ProvisionerBridgeEvent {
    final String owner
    final Map<String, Object> fields
    Queue.Item raw
    volatile ProvisionerBridgeItem item
    long seq

    ProvisionerBridgeEvent(String owner, Map<String, Object> fields, Queue.Item raw) {
        this.owner = owner
        this.fields = fields
        this.raw = raw
    }
}

/** What happened, numbered, for readers at a pace of their own: a bounded buffer, filled by a thread of its own. */
@CompileStatic
class ProvisionerBridgeEvents {
    static final int RING = 5000
    static final int INBOUND = 50000

    final String epoch
    final AtomicLong lost = new AtomicLong()
    private final LinkedBlockingQueue<ProvisionerBridgeEvent> inbound = new LinkedBlockingQueue<>(INBOUND)
    private final ArrayDeque<ProvisionerBridgeEvent> ring = new ArrayDeque<>()
    private long newest
    private volatile boolean stopped
    private Thread carrier

    ProvisionerBridgeEvents(String epoch) { this.epoch = epoch }

    /** Cheap, and safe inside the queue lock: what costs is done by the carrier. */
    void emit(String type, String owner, Map<String, Object> fields, Queue.Item raw) {
        Map<String, Object> all = new LinkedHashMap<String, Object>()
        all.put('type', type)
        if (fields != null) all.putAll(fields)
        if (!inbound.offer(new ProvisionerBridgeEvent(owner, all, raw))) lost.incrementAndGet()
    }

    void start() {
        carrier = new Thread({ -> carry() } as Runnable, 'provisioner bridge events')
        carrier.setDaemon(true)
        carrier.start()
    }

    private void carry() {
        boolean quiet = Jenkins.get().isQuietingDown()
        long lostBefore = 0
        while (!stopped) {
            try {
                ProvisionerBridgeEvent event = inbound.poll(500L, TimeUnit.MILLISECONDS)
                Jenkins jenkins = Jenkins.getInstanceOrNull()
                if (jenkins == null) return
                if (quiet != jenkins.isQuietingDown()) {
                    quiet = !quiet
                    Map<String, Object> fields = new HashMap<String, Object>()
                    fields.put('type', 'quiet')
                    fields.put('on', quiet)
                    publish(new ProvisionerBridgeEvent(null, fields, null))
                }
                if (lost.get() != lostBefore) {
                    lostBefore = lost.get()
                    forget()
                }
                if (event == null) continue
                if (event.raw != null) {
                    ACLContext system = ACL.as2(ACL.SYSTEM2)
                    try {
                        event.item = ProvisionerBridgeItem.of(event.raw)
                    } finally {
                        system.close()
                    }
                    event.raw = null  // the buffer must not keep what has left the queue
                }
                publish(event)
            } catch (InterruptedException ignored) {
                // only `stop` interrupts, and the condition above sees it
            } catch (Throwable problem) {
                ProvisionerBridge.complain('carrying an event', problem)
                forget()
            }
        }
    }

    private void publish(ProvisionerBridgeEvent event) {
        synchronized (ring) {
            newest++
            event.seq = newest
            ring.addLast(event)
            while (ring.size() > RING) ring.removeFirst()
            ring.notifyAll()
        }
    }

    /** Something was lost: every reader starts again from a snapshot. */
    private void forget() {
        synchronized (ring) {
            newest++
            ring.clear()
            ring.notifyAll()
        }
    }

    long newestSeq() { synchronized (ring) { return newest } }

    void stop() {
        stopped = true
        if (carrier != null) carrier.interrupt()
        synchronized (ring) { ring.notifyAll() }
    }

    boolean isStopped() { return stopped }

    /** Wait until there is something newer than `since` for this reader; never holds a lock while it writes. */
    Map<String, Object> read(String owner, Set<String> names, String wantedEpoch, long since, long waitMs, Closure<Boolean> mayRead) {
        long deadline = System.nanoTime() + waitMs * 1000000L
        long seen = since
        while (true) {
            List<ProvisionerBridgeEvent> fresh = new ArrayList<ProvisionerBridgeEvent>()
            long upTo
            synchronized (ring) {
                while (true) {
                    long oldest = ring.isEmpty() ? newest + 1 : ring.peekFirst().seq
                    if (wantedEpoch != epoch || stopped || seen > newest || seen < oldest - 1) {
                        return [resync: true, epoch: epoch, seq: newest] as Map<String, Object>
                    }
                    if (seen < newest) break
                    long leftMs = (deadline - System.nanoTime()).intdiv(1000000L) as long
                    if (leftMs <= 0) return [epoch: epoch, seq: newest, events: []] as Map<String, Object>
                    ring.wait(leftMs)
                }
                Iterator<ProvisionerBridgeEvent> backwards = ring.descendingIterator()
                while (backwards.hasNext()) {
                    ProvisionerBridgeEvent event = backwards.next()
                    if (event.seq <= seen) break
                    fresh.add(event)
                }
                upTo = newest
            }
            Collections.reverse(fresh)
            List<Map<String, Object>> shown = new ArrayList<Map<String, Object>>()
            for (ProvisionerBridgeEvent event : fresh) {
                if (event.owner != null && event.owner != owner) continue
                if (event.item != null && !mayRead.call(event.item)) continue
                Map<String, Object> out = new LinkedHashMap<String, Object>()
                out.put('seq', event.seq)
                out.putAll(event.fields)
                if (event.item != null) out.put('item', event.item.forReader(names))
                shown.add(out)
            }
            if (!shown.isEmpty()) return [epoch: epoch, seq: upTo, events: shown] as Map<String, Object>
            seen = upTo
        }
    }
}
