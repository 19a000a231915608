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
}
