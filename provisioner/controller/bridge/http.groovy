/** /provisioner-bridge/ */
class ProvisionerBridgeAction implements RootAction {
    static final int MOST_BYTES = 16 * 1024 * 1024
    private final ProvisionerBridge bridge

    ProvisionerBridgeAction(ProvisionerBridge bridge) { this.bridge = bridge }

    String getIconFileName() { null }

    String getDisplayName() { null }

    String getUrlName() { 'provisioner-bridge' }

    /** For the classes of a later installation. */
    Map<String, Object> handOver() { return bridge.export() }

    void stopBridge() { bridge.events.stop() }

    String bridgeVersion() { ProvisionerBridge.VERSION }

    String bridgeContent() { bridge.content }

    List<String> usedByOthers(String owner, String holder) { bridge.holders.others(owner, holder) }

    void doStatus(StaplerRequest req, StaplerResponse rsp) {
        answer(req, rsp, 'GET') {
            admit(null)
            [bridge: ProvisionerBridge.VERSION, content: bridge.content, protocol: [ProvisionerBridge.PROTOCOL], mode: bridge.mode,
             session: Jenkins.SESSION_HASH, epoch: bridge.epoch, listeners: ProvisionerBridgeLists.listeners(),
             events_lost: bridge.events.lost.get(), readers: bridge.readers.get(),
             owners: bridge.mode == 'init' ? bridge.parameters.owners : bridge.parameterNames.keySet().sort()]
        }
    }

    void doHello(StaplerRequest req, StaplerResponse rsp) {
        answer(req, rsp, 'POST') {
            def body = read(req)
            def owner = admit(ownerOf(body))
            def names = body.parameters ?: []
            if (!(names instanceof List)) throw new ProvisionerBridgeRefusal(400, 'parameters must be a list of names')
            bridge.holders.hold(owner, holderOf(body.holder))
            bridge.parameterNames.put(owner, new LinkedHashSet<String>(names.collect { String.valueOf(it) }))
            def mayRead = reader()
            asSystem { bridge.views.snapshot(owner, mayRead) }
        }
    }

    void doEvents(StaplerRequest req, StaplerResponse rsp) {
        answer(req, rsp, 'GET') {
            def owner = admit(req.getParameter('owner'))
            long since = number(req, 'since')
            long waitS = Math.min(55L, Math.max(0L, number(req, 'wait')))
            bridge.holders.hold(owner, holderOf(req.getParameter('holder')))
            def mayRead = reader()
            if (bridge.readers.incrementAndGet() > ProvisionerBridge.MOST_READERS) {
                bridge.readers.decrementAndGet()
                throw new ProvisionerBridgeRefusal(503, "more than ${ProvisionerBridge.MOST_READERS} readers")
            }
            try {
                bridge.events.read(owner, bridge.namesFor(owner), req.getParameter('epoch'), since, waitS * 1000L, mayRead)
            } finally {
                bridge.readers.decrementAndGet()
            }
        }
    }

    void doApply(StaplerRequest req, StaplerResponse rsp) {
        answer(req, rsp, 'POST') {
            def body = read(req)
            def owner = admit(ownerOf(body))
            if (!(body.ops instanceof List)) throw new ProvisionerBridgeRefusal(400, 'ops must be a list')
            def bad = body.ops.find { !(it instanceof Map) }
            if (bad != null) throw new ProvisionerBridgeRefusal(400, 'an op must be an object')
            bridge.holders.hold(owner, holderOf(body.holder))
            def mayRead = reader()
            asSystem { [results: body.ops.collect { bridge.verbs.apply(owner, it, mayRead) }] }
        }
    }

    /** Who may: in `script` mode administrators, in `init` mode the one account, for its own owner ids. */
    private String admit(String owner) {
        if (bridge.mode == 'init') {
            def id = Jenkins.authentication2.name
            if (id != bridge.parameters.user) throw new ProvisionerBridgeRefusal(403, "account ${id} is not the one this bridge serves")
            if (owner != null && !(owner in bridge.parameters.owners)) {
                throw new ProvisionerBridgeRefusal(403, "owner ${owner} is not one this bridge serves")
            }
        } else if (!Jenkins.get().hasPermission(Jenkins.ADMINISTER)) {
            throw new ProvisionerBridgeRefusal(403, "account ${Jenkins.authentication2.name} lacks Overall/Administer")
        }
        return owner
    }

    private static String ownerOf(body) {
        if (body.protocol != ProvisionerBridge.PROTOCOL) throw new ProvisionerBridgeRefusal(409, 'protocol')
        if (!(body.owner instanceof String) || !(body.owner ==~ /[A-Za-z0-9][A-Za-z0-9._-]*/)) {
            throw new ProvisionerBridgeRefusal(400, 'owner must be a plain id')
        }
        return body.owner
    }

    private static String holderOf(holder) {
        if (holder == null || (holder instanceof String && holder ==~ /[A-Za-z0-9-]{0,64}/)) return holder
        throw new ProvisionerBridgeRefusal(400, 'holder must be a plain id')
    }

    /** Decides for the account of this request, wherever it is asked. */
    private static Closure<Boolean> reader() {
        def who = Jenkins.authentication2
        return { ProvisionerBridgeItem item ->
            item.job != null ? item.job.getACL().hasPermission2(who, Item.READ) : Jenkins.get().getACL().hasPermission2(who, Jenkins.ADMINISTER)
        }
    }

    private static Map asSystem(Closure<Map> work) {
        def system = ACL.as2(ACL.SYSTEM2)
        try {
            return work()
        } finally {
            system.close()
        }
    }

    private static long number(StaplerRequest req, String name) {
        def text = req.getParameter(name)
        if (!(text ==~ /\d{1,18}/)) throw new ProvisionerBridgeRefusal(400, "${name} must be a number")
        return Long.parseLong(text)
    }

    private static Map read(StaplerRequest req) {
        def out = new ByteArrayOutputStream()
        def input = req.inputStream
        byte[] buffer = new byte[65536]
        int count
        while ((count = input.read(buffer)) > 0) {
            out.write(buffer, 0, count)
            if (out.size() > MOST_BYTES) throw new ProvisionerBridgeRefusal(400, "the body is longer than ${MOST_BYTES} bytes")
        }
        def body
        try {
            body = new JsonSlurperClassic().parseText(out.toString('UTF-8'))
        } catch (Exception problem) {
            throw new ProvisionerBridgeRefusal(400, 'the body is not JSON')
        }
        if (!(body instanceof Map)) throw new ProvisionerBridgeRefusal(400, 'the body must be an object')
        return body
    }

    private static void answer(StaplerRequest req, StaplerResponse rsp, String method, Closure<Map> work) {
        int status = 200
        def body
        try {
            if (req.method != method) throw new ProvisionerBridgeRefusal(405, "use ${method}")
            body = work()
        } catch (ProvisionerBridgeRefusal refusal) {
            status = refusal.code
            body = [error: refusal.message]
            if (status == 409) body.speaks = [ProvisionerBridge.PROTOCOL]
        } catch (Throwable problem) {
            ProvisionerBridge.complain("answering ${req.requestURI}", problem)
            status = 500
            body = [error: String.valueOf(problem)]
        }
        rsp.status = status
        rsp.contentType = 'application/json;charset=UTF-8'
        rsp.setHeader('Cache-Control', 'no-store')
        rsp.outputStream.write(JsonOutput.toJson(body).getBytes('UTF-8'))
    }
}
