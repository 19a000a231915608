/** Which provisioner works under each owner id: one at a time. */
@CompileStatic
class ProvisionerBridgeHolders {
    static final long GONE_MS = 45000L

    private final Map<String, String> holders = new HashMap<String, String>()
    private final Map<String, Long> heardMs = new HashMap<String, Long>()

    /** Another one gets its turn when the one before is not heard of any more; without a name one claims nothing. */
    synchronized void hold(String owner, String holder) {
        if (owner == null || holder == null || holder.isEmpty()) return
        long now = TimeUnit.NANOSECONDS.toMillis(System.nanoTime())
        String other = holders.get(owner)
        if (other != null && other != holder && now - heardMs.get(owner) < GONE_MS) {
            throw new ProvisionerBridgeRefusal(423, "another provisioner with the id ${owner} is at work here; " +
                'stop one of the two, or give each an id of its own')
        }
        holders.put(owner, holder)
        heardMs.put(owner, now)
    }

    /** Owner ids under which somebody else than this one is at work; one without a name is any of its owner id. */
    synchronized List<String> others(String owner, String holder) {
        long now = TimeUnit.NANOSECONDS.toMillis(System.nanoTime())
        List<String> found = new ArrayList<String>()
        for (Map.Entry<String, String> entry : holders.entrySet()) {
            boolean same = entry.getKey() == owner && (holder == null || holder.isEmpty() || entry.getValue() == holder)
            if (!same && now - heardMs.get(entry.getKey()) < GONE_MS) found.add(entry.getKey())
        }
        Collections.sort(found)
        return found
    }

    /** Plain JDK values only: read by the classes of a later installation. */
    synchronized Map<String, Object> export() {
        return [holders: new HashMap<String, String>(holders), heard_ms: new HashMap<String, Long>(heardMs)] as Map<String, Object>
    }

    /** The clock goes on: both installations are in one Java machine. */
    synchronized void restore(Map<String, Object> state) {
        holders.putAll((Map<String, String>) state.get('holders'))
        heardMs.putAll((Map<String, Long>) state.get('heard_ms'))
    }
}
