/** A queue item in the words of the protocol, with what decides who may read it. */
@CompileStatic
class ProvisionerBridgeItem {
    static final int MOST_CAUSES = 10
    final Map<String, Object> json
    final Map<String, String> parameters
    final Item job

    private ProvisionerBridgeItem(Map<String, Object> json, Map<String, String> parameters, Item job) {
        this.json = json
        this.parameters = parameters
        this.job = job
    }

    static ProvisionerBridgeItem of(Queue.Item item) {
        Queue.Task task = item.task
        String url
        String buildUrl = null
        String kind
        Item job = null
        Run<?, ?> run = null
        ParametersAction given = item.getAction(ParametersAction)
        if (ProvisionerBridgePipeline.isNodeStep(task)) {
            kind = 'pipeline'
            String runId = ProvisionerBridgePipeline.runId(task)
            int hash = runId.lastIndexOf('#')
            job = Jenkins.get().getItemByFullName(runId.substring(0, hash))
            int number = Integer.parseInt(runId.substring(hash + 1))
            buildUrl = (job == null ? '' : job.getUrl()) + number + '/'
            url = buildUrl
            if (job instanceof Job) {
                run = ((Job) job).getBuildByNumber(number)
                given = run == null ? null : run.getAction(ParametersAction)
            }
        } else {
            kind = task instanceof AbstractProject ? 'freestyle' : 'other'
            if (task instanceof Item) job = (Item) task
            url = task.getUrl()
        }
        Item named = job
        while (named != null && !(named instanceof TopLevelItem) && named.getParent() instanceof Item) {
            named = (Item) named.getParent()  // the cell of a matrix is known by its matrix job
        }
        Map<String, String> parameters = new TreeMap<String, String>()
        if (given != null) {
            for (ParameterValue value : given.getAllParameters()) {
                Object content = value == null || value.isSensitive() ? null : value.getValue()
                if (content instanceof String || content instanceof Boolean || content instanceof Number) {
                    parameters.put(value.getName(), String.valueOf(content))
                }
            }
        }
        Label label = item.getAssignedLabel()
        Map<String, Object> json = new LinkedHashMap<String, Object>()
        json.put('id', item.getId())
        json.put('since_ms', item.getInQueueSince())
        json.put('buildable_ms', item instanceof Queue.BuildableItem ? ((Queue.BuildableItem) item).buildableStartMilliseconds : null)
        json.put('task', url ?: '')
        json.put('job', (named == null ? task.getName() : named.getFullName()) ?: '')
        json.put('kind', kind)
        json.put('label', label == null ? null : label.getExpression())
        json.put('build_url', buildUrl)
        json.put('why', item.getWhy())
        json.put('causes', causesOf(item, run))
        return new ProvisionerBridgeItem(json, parameters, job)
    }

    /** Why it is there, each in a sentence of Jenkins; a `node` step has none of its own, but its run has. */
    private static List<String> causesOf(Queue.Item item, Run<?, ?> run) {
        List<String> told = []
        for (Object cause : run == null ? item.getCauses() : run.getCauses()) {
            if (told.size() == MOST_CAUSES) break
            String text = ((Cause) cause).getShortDescription()
            if (text != null) told.add(text.length() > 500 ? text.substring(0, 500) : text)
        }
        return told
    }

    /** For one reader: only the parameters that it named. */
    Map<String, Object> forReader(Set<String> names) {
        Map<String, Object> out = new LinkedHashMap<String, Object>(json)
        Map<String, String> shown = new LinkedHashMap<String, String>()
        for (String name : names) {
            String value = parameters.get(name)
            if (value != null) shown.put(name, value)
        }
        out.put('parameters', shown)
        return out
    }
}
