/**
 * What the controller needs to dial an agent: a credentials entry of the agent's own, and a launcher that pins its
 * host key. Plugins bring both, and may not be installed, so nothing here names their classes.
 */
class ProvisionerBridgeSsh {
    private static final String LAUNCHER = 'hudson.plugins.sshslaves.SSHLauncher'
    private static final String PINNED = 'hudson.plugins.sshslaves.verifiers.ManuallyProvidedKeyVerificationStrategy'
    private static final String ENTRY = 'com.cloudbees.jenkins.plugins.sshcredentials.impl.BasicSSHUserPrivateKey'
    private static final String CREDENTIALS = 'com.cloudbees.plugins.credentials'

    private static Class<?> load(String name) {
        try {
            return Jenkins.get().pluginManager.uberClassLoader.loadClass(name)
        } catch (ClassNotFoundException | LinkageError missing) {
            throw new ProvisionerBridgeRefusal(412, 'the plugin SSH Build Agents (ssh-slaves) is not installed, or what it needs: ssh-credentials, credentials')
        }
    }

    static String idOf(String owner, String name) { 'jenkins-provisioner.' + owner + '.' + name }

    private static store() { load(CREDENTIALS + '.SystemCredentialsProvider').getInstance().getStore() }

    private static domain() { load(CREDENTIALS + '.domains.Domain').global() }

    private static idOfEntry(entry) { entry.metaClass.respondsTo(entry, 'getId') ? entry.getId() : null }

    private static boolean isOf(entry, String owner, String name) {
        idOfEntry(entry) == idOf(owner, name) && entry.getDescription() == ProvisionerBridge.mark(owner, name)
    }

    private static find(String owner, String name) {
        def there = store().getCredentials(domain()).find { idOfEntry(it) == idOf(owner, name) }
        if (there != null && !isOf(there, owner, name)) {
            throw new ProvisionerBridgeRefusal(409, "the credentials entry ${idOf(owner, name)} does not carry the mark of owner ${owner}")
        }
        return there
    }

    /** Names of the agents of an owner that have an entry. */
    static List<String> names(String owner) {
        try {
            load(ENTRY)
        } catch (ProvisionerBridgeRefusal none) {
            return []
        }
        def start = ProvisionerBridge.mark(owner, '')
        return store().getCredentials(domain()).findAll { idOfEntry(it) != null && it.getDescription()?.startsWith(start) }
            .collect { it.getDescription().substring(start.length()) }.findAll { String name -> find(owner, name) != null }
    }

    private static void put(String owner, String name, String user, String key) {
        def there = find(owner, name)
        if (there != null && there.getUsername() == user && there.getPrivateKeys() == [key]) return
        def source = load(ENTRY + '$DirectEntryPrivateKeySource').newInstance(key)
        def scope = load(CREDENTIALS + '.CredentialsScope').SYSTEM
        def made = load(ENTRY).newInstance(scope, idOf(owner, name), user, source, '', ProvisionerBridge.mark(owner, name))
        if (there == null) store().addCredentials(domain(), made) else store().updateCredentials(domain(), there, made)
    }

    /** False if there was none. */
    static boolean forget(String owner, String name) {
        try {
            load(ENTRY)
        } catch (ProvisionerBridgeRefusal none) {
            return false
        }
        def there = find(owner, name)
        if (there == null) return false
        // where it was used is remembered by the plugin in a file of its own, which nothing else would delete
        try {
            load(CREDENTIALS + '.CredentialsProvider').getFingerprintOf(there)?.with { hudson.model.Fingerprint.delete(it.hashString) }
        } catch (Throwable problem) {
            ProvisionerBridge.complain("forgetting where the credentials of ${name} were used", problem)
        }
        store().removeCredentials(domain(), there)
        return true
    }

    /** Entry, then launcher, then the call; what is there already is left as it is. */
    static Map<String, Object> dial(Node node, String owner, Map<String, Object> op) {
        ['host', 'host_key', 'user', 'private_key', 'java'].each { ProvisionerBridgeFields.text(op, it) }
        ['port', 'timeout_s', 'retries'].each {
            if (!(op[it] instanceof Integer)) throw new ProvisionerBridgeRefusal(400, "${it} must be a number, in op dial")
        }
        ['java_options', 'prefix', 'suffix'].each {
            if (!(op[it] instanceof String)) throw new ProvisionerBridgeRefusal(400, "${it} must be a text, in op dial")
        }
        if (node == null) throw new ProvisionerBridgeRefusal(410, "there is no node ${op.name}")
        String name = node.getNodeName()
        def strategy = load(PINNED).newInstance(op.host_key)
        put(owner, name, (String) op.user, (String) op.private_key)
        def id = idOf(owner, name)
        def now = node.getLauncher()
        boolean same = now.class.name == LAUNCHER && now.host == op.host && now.port == op.port && now.credentialsId == id &&
            now.sshHostKeyVerificationStrategy?.class?.name == PINNED && now.sshHostKeyVerificationStrategy.key == strategy.key
        if (!same) {
            def launcher = load(LAUNCHER).newInstance((String) op.host, (int) op.port, (String) id, (String) op.java_options, (String) op.java,
                (String) op.prefix, (String) op.suffix, (Integer) op.timeout_s, (Integer) op.retries, 1, strategy)
            // neither changing the node nor adding one of its name makes its computer take the other launcher
            Jenkins.get().getNodesObject().replaceNode(node, ProvisionerBridgeVerbs.nodeOf(owner, name, node.getRemoteFS(), launcher))
        }
        Jenkins.get().getComputer(name)?.connect(false)
        return [ok: true]
    }

    /** The last lines of what the launcher wrote about a node. */
    static Map<String, Object> launchLog(Node node, Map<String, Object> op) {
        List<String> lines = node?.toComputer()?.getLog()?.readLines() ?: []
        int most = op.most instanceof Integer ? Math.max(0, Math.min(200, (Integer) op.most)) : 20
        return [ok: true, lines: lines.takeRight(most)]
    }
}
